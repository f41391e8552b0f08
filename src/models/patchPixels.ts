/** Pixels of patches on their way into a tower: uploaded as bytes and normalised on the device. */
import { type Colours, normalisationOf } from "../data/pictures/processorJson.ts";
import { empty, fromArray } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";

/**
 * Returns the normalised pixels of patches, (patches, 3 p²) in float32. bytes: a patch after the other, each
 * [channel, y, x]; undefined in a plan, which has no pixels.
 */
export function normalisedPatches(
  bytes: Uint8Array | undefined,
  shape: readonly [patches: number, values: number],
  colours: { mean: Colours; std: Colours },
  { device }: { device: Device },
): Tensor {
  return scope(() => {
    const { shift, scale } = normalisationOf(colours);
    const given = { dtype: "uint8", device } as const;
    const uploaded = category("inputData", () =>
      bytes ? fromArray(bytes, shape, given) : empty(shape, given),
    );
    const byChannel = uploaded.to({ dtype: "float32" }).view([shape[0], 3, -1]);
    const ofChannels = (values: Float32Array): Tensor => fromArray(values, [3, 1], { device });
    return byChannel.sub_(ofChannels(shift)).div_(ofChannels(scale)).view(shape);
  });
}
