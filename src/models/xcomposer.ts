/** Text and image rows assembled into the decoder's input. */
import { fromArray } from "../torch/create.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { encodeImageInto, type Picture } from "./vision.ts";
import type { Model } from "./weights.ts";

/** Embeddings of token ids, (T) -> (T, C); rows of pictures hold whatever id stands there until placeImage_. */
export function embedText({ embeddings, device }: Model, inputIds: Int32Array): Tensor {
  return scope(() =>
    embeddings.indexSelect(0, fromArray(inputIds, [inputIds.length], { dtype: "int64", device })),
  );
}

/** Writes the image tokens of a picture into its rows, (imageTokens, C); yields after each batch of tiles. */
export function placeImage_(
  rows: Tensor,
  { vision, config, dtype, device }: Model,
  picture: Picture,
  visionBatch: number,
): Generator<{ done: number; total: number }, void> {
  return encodeImageInto(rows, vision, config.vision, picture, { dtype, device, visionBatch });
}
