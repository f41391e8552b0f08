/** Text and image rows assembled into the decoder's input. */
import type { PictureLayout } from "../data/pictures/form.ts";
import { frozenGather, frozenShape } from "../nn/frozen/frozen.ts";
import { type Rows, rowsOf, tilesOf } from "../nn/rows.ts";
import { empty, fromArray } from "../torch/create.ts";
import { category, pool } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { familyOf } from "./families.ts";
import type { EncodeOptions } from "./family.ts";
import { partOnDevice } from "./parts.ts";
import { WEIGHT_PLACES } from "./places.ts";
import type { Model } from "./weights.ts";

/** Rows of embeddings that are gathered on the host at a time. */
const HOST_GATHER_ROWS = 1024;

/**
 * Returns embeddings of token ids, (T) -> (T, C). Rows of pictures hold whatever id stands there until
 * placeImage_.
 */
export function embedText(model: Model, inputIds: Int32Array): Tensor {
  return scope(() => {
    const { embeddings, places, device, dtype } = model;
    const ids = (at: Device, rows: Rows): Tensor =>
      category("inputData", () =>
        fromArray(inputIds.subarray(rows.start, rows.end), [rows.end - rows.start], {
          dtype: "int64",
          device: at,
        }),
      );
    const all = { start: 0, end: inputIds.length };
    if (places.embeddings !== "host")
      return frozenGather(partOnDevice(model, "embeddings"), ids(device, all), { dtype });
    const { pool: own, deviceOf } = WEIGHT_PLACES.host;
    const hidden = empty([inputIds.length, frozenShape(embeddings)[1]!], { dtype, device });
    for (const tile of tilesOf(inputIds.length, HOST_GATHER_ROWS)) {
      scope(() => {
        const gathered = pool(own, () =>
          scope(() => frozenGather(embeddings, ids(deviceOf(device), tile), { dtype })),
        );
        rowsOf(hidden, tile).copy_(gathered);
      });
    }
    return hidden;
  });
}

/**
 * Writes the image tokens of a picture, or of some of its units, into its rows, (tokens, C), with a tower on
 * the device. Yields after each batch of tiles. deepstack: room for its features for the first layers.
 */
export function placeImage_(
  rows: Tensor,
  { vision, config, dtype, device }: Model,
  picture: PictureLayout,
  visionBatch: number,
  { units, deepstack }: Pick<EncodeOptions, "units" | "deepstack"> = {},
): Generator<{ done: number; total: number }, void> {
  const options = { dtype, device, visionBatch, units, deepstack };
  return familyOf(config).pictures.encodeInto(rows, vision, config, picture, options);
}
