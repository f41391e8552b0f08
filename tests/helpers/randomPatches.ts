/** Random pictures of patches, micro-batches with them, and small models that read them. */

import { patchGrid } from "../../src/data/pictures/patches/patchGrid.ts";
import type { PatchPicture } from "../../src/data/pictures/patches/patchPixels.ts";
import type { PatchRules } from "../../src/data/pictures/patches/patchRules.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { axesOf, PRESETS, type Qwen2_5VlConfig } from "../../src/models/qwen2_5_vl/spec.ts";
import {
  interleavedAxes,
  PRESETS as QWEN3_PRESETS,
  type Qwen3VlConfig,
} from "../../src/models/qwen3_vl/spec.ts";
import { type PictureSample, randomBytes, randomPictureBatch } from "./randomPictures.ts";

const PUBLISHED = PRESETS["qwen2.5-vl-7b"];
const QWEN3 = QWEN3_PRESETS["qwen3-vl-8b"];

/** Returns the sizes of a Qwen2.5-VL with a few thousand parameters, and windows of 4 x 4 tokens. */
export function smallQwen(
  overrides: Partial<Omit<Qwen2_5VlConfig, "vision">> & { vision?: Partial<Qwen2_5VlConfig["vision"]> } = {},
): Qwen2_5VlConfig {
  const { vision, ...rest } = overrides;
  return {
    ...PUBLISHED,
    ...{ hidden: 32, layers: 4, heads: 4, kvHeads: 2, headDim: 8, ffn: 48, vocab: 97 },
    ...{ axisOfPair: axesOf([1, 1, 2]), maxPositions: 4096, bosId: 1, eosIds: [2] },
    ...rest,
    vision: {
      ...PUBLISHED.vision,
      ...{ hidden: 16, layers: 3, heads: 2, ffn: 20, fullAttention: [1] },
      ...vision,
    },
  };
}

/** Returns the sizes of a Qwen3-VL with a few thousand parameters and heads wider than the hidden states. */
export function smallQwen3(
  overrides: Partial<Omit<Qwen3VlConfig, "vision">> & { vision?: Partial<Qwen3VlConfig["vision"]> } = {},
): Qwen3VlConfig {
  const { vision, ...rest } = overrides;
  return {
    ...QWEN3,
    ...{ hidden: 32, layers: 5, heads: 4, kvHeads: 2, headDim: 12, ffn: 48, vocab: 97 },
    ...{ axisOfPair: interleavedAxes([2, 2, 2]), maxPositions: 4096, bosId: 1, eosIds: [2] },
    pictures: { ...QWEN3.pictures, minPixels: 1024 },
    ...rest,
    vision: {
      ...QWEN3.vision,
      ...{ hidden: 16, layers: 3, heads: 2, ffn: 20, positionSide: 7, deepstackLayers: [0, 2] },
      ...vision,
    },
  };
}

/** Returns a picture of random pixels, of so many rows and columns of tokens. */
export function randomPicture(
  rows: number,
  columns: number,
  { patchPixels, mergeSide }: PatchRules,
  seed = 1,
): PatchPicture {
  const bytes = rows * columns * (mergeSide * patchPixels) ** 2 * 3;
  return { ...patchGrid(rows, columns), patches: randomBytes(bytes, seed) };
}

/** Returns a packed micro-batch of random samples; pictures: rows and columns of tokens. */
export function randomPatchBatch(
  { pictures: rules, vocab }: Qwen2_5VlConfig | Qwen3VlConfig,
  samples: readonly PictureSample<readonly [rows: number, columns: number]>[],
): MicroBatch {
  return randomPictureBatch(vocab, samples, ([rows, columns], seed) =>
    randomPicture(rows, columns, rules, seed),
  );
}
