/** Random pictures of patches, micro-batches with them, and small models that read them. */

import { patchGrid } from "../../src/data/pictures/patches/patchGrid.ts";
import type { PatchPicture } from "../../src/data/pictures/patches/patchPixels.ts";
import type { PatchRules } from "../../src/data/pictures/patches/patchRules.ts";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { axesOf, PRESETS, type Qwen2_5VlConfig } from "../../src/models/qwen2_5_vl/spec.ts";
import { lcg } from "./randomModel.ts";

const PUBLISHED = PRESETS["qwen2.5-vl-7b"];

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

/** Returns a picture of random pixels, of so many rows and columns of tokens. */
export function randomPicture(
  rows: number,
  columns: number,
  { patchPixels, mergeSide }: PatchRules,
  seed = 1,
): PatchPicture {
  const random = lcg(seed);
  const bytes = rows * columns * (mergeSide * patchPixels) ** 2 * 3;
  return {
    ...patchGrid(rows, columns),
    patches: Uint8Array.from({ length: bytes }, () => Math.floor(random() * 256)),
  };
}

export interface PatchSample {
  /** Rows and columns of tokens of each picture. */
  pictures?: readonly (readonly [rows: number, columns: number])[];
  /** Tokens of text: a few before each picture, and the rest at the end. */
  textTokens: number;
  /** Last tokens that are labelled; default: a third of the text. */
  labelTokens?: number;
}

/** Returns a packed micro-batch of random samples. */
export function randomPatchBatch(
  { pictures: rules, vocab }: Qwen2_5VlConfig,
  samples: readonly PatchSample[],
): MicroBatch {
  const random = lcg(5);
  const ids = (length: number): number[] =>
    Array.from({ length }, () => 3 + Math.floor(random() * (vocab - 3)));
  const loaded = samples.map(({ pictures = [], textTokens, labelTokens }, index) => {
    const before = 2;
    const inputIds = Int32Array.from([
      ...pictures.flatMap(() => [...ids(before), IMAGE_SLOT]),
      ...ids(textTokens - before * pictures.length),
    ]);
    const labelled = labelTokens ?? Math.floor(textTokens / 3);
    const labels = inputIds.map((id, at) => (at < inputIds.length - labelled ? -100 : id));
    const images = pictures.map(([rows, columns], at) =>
      randomPicture(rows, columns, rules, 10 * index + at),
    );
    const sample = { source: { file: "random", index }, inputIds, labels };
    return { sample: { ...sample, images: images.map(() => ({ path: "", limit: 0 })) }, images };
  });
  return layoutBatch(loaded) as MicroBatch;
}
