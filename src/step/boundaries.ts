/** Boundary activations: the inputs of layers, waiting for the backward on the device, on the host, or nowhere. */
import { category, pool } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { Owner } from "./owner.ts";
import type { LayerPolicy } from "./policy.ts";

export type Boundary = { at: "device"; hidden: Tensor } | { at: "host"; hidden: Tensor } | { at: "none" };

/** Keeps a copy of a layer's input, (T, C), where the policy wants it. */
export function saveBoundary(hidden: Tensor, place: LayerPolicy["boundary"], owner: Owner): Boundary {
  if (place === "none") return { at: "none" };
  const copy = category("boundaryActivations", () => (place === "host" ? hostCopy(hidden) : hidden.clone()));
  return { at: place, hidden: owner.own(copy) };
}

/** The layer's input on the device, (T, C), the caller's to free. Throws where there is none. */
export function takeBoundary(boundary: Boundary, device: Device, owner: Owner): Tensor {
  if (boundary.at === "none")
    throw new Error("a layer without boundary activations was taken before it was restored");
  if (boundary.at === "device") return boundary.hidden;
  const { hidden } = boundary;
  const onDevice = category("boundaryActivations", () => owner.own(hidden.to({ device, copy: true })));
  owner.free(hidden);
  return onDevice;
}

/** A second copy on the device, (T, C): the boundary stays. Throws where there is none. */
export function copyBoundary(boundary: Boundary, device: Device, owner: Owner): Tensor {
  if (boundary.at === "none") throw new Error("a layer without boundary activations can't be restored from");
  const { hidden } = boundary;
  return category("workingSet", () => owner.own(hidden.to({ device, copy: true })));
}

/** On cpu and meta the host is another pool of the same device. */
function hostCopy(hidden: Tensor): Tensor {
  const device = hidden.device.startsWith("cuda") ? "cpu" : hidden.device;
  return pool("host", () => scope(() => hidden.to({ device, copy: true })));
}
