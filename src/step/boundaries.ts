/** Boundary activations: the inputs of layers, waiting for the backward on the device, on the host, or nowhere. */
import type { RowSource } from "../nn/rows.ts";
import { rowSource, rowsOf } from "../nn/rows.ts";
import { emptyOnHost, startCopy } from "../torch/copies.ts";
import { empty } from "../torch/create.ts";
import { category } from "../torch/device.ts";
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

/** Rows of the layer's input on the device: of the host's they are fetched as they are asked for. Throws where there is none. */
export function boundaryRows(boundary: Boundary, device: Device): RowSource {
  if (boundary.at === "none")
    throw new Error("a layer without boundary activations was taken before it was restored");
  const { hidden } = boundary;
  if (boundary.at === "device") return rowSource(hidden);
  return { tokens: hidden.shape[0]!, rows: (rows) => fetchRows(rowsOf(hidden, rows), device) };
}

/** A copy of the layer's input on the device, (T, C), the open scope's. */
export function copyBoundary(boundary: Boundary, device: Device): Tensor {
  if (boundary.at === "none") throw new Error("a layer without boundary activations can't be restored from");
  return boundary.at === "device" ? boundary.hidden.clone() : fetchRows(boundary.hidden, device);
}

export function freeBoundary(boundary: Boundary, owner: Owner): void {
  if (boundary.at !== "none") owner.free(boundary.hidden);
}

function hostCopy(hidden: Tensor): Tensor {
  const copy = emptyOnHost(hidden.shape, hidden);
  startCopy(copy, hidden).wait();
  return copy;
}

function fetchRows(rows: Tensor, device: Device): Tensor {
  return scope(() => {
    const copy = empty(rows.shape, { dtype: rows.dtype, device });
    startCopy(copy, rows).wait();
    return copy;
  });
}
