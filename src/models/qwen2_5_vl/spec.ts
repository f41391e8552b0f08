/**
 * The sizes of Qwen2.5-VL. Source of the facts: config.json of the published 3B and 7B, and transformers,
 * models/qwen2_5_vl. Dims as in xcomposer2/spec.ts; W is the tower's width, P the patches of a picture.
 */
import type { PatchRules } from "../../data/pictures/patches/patchRules.ts";
import type { ModelConfig } from "../family.ts";

export interface WindowTowerConfig {
  /** W */
  hidden: number;
  layers: number;
  heads: number;
  ffn: number;
  patchPixels: number;
  /** Patches along the side of a token. */
  mergeSide: number;
  /** Pixels along the side of an attention window. */
  windowPixels: number;
  /** Layers whose attention covers the whole picture, ascending; the others attend within windows. */
  fullAttention: readonly number[];
  eps: number;
}

export interface Qwen2_5VlConfig extends ModelConfig {
  vision: WindowTowerConfig;
  pictures: PatchRules;
}

/** The family's name in the tables. */
export const QWEN2_5_VL_NAME = "qwen2_5_vl";

/** How published checkpoints lay out pictures, by their preprocessor_config.json. */
const PUBLISHED_PICTURES: PatchRules = {
  form: "patches",
  patchPixels: 14,
  mergeSide: 2,
  minPixels: 3136,
  maxPixels: 12_845_056,
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
  windowPixels: 112,
};

const PUBLISHED_TOWER: WindowTowerConfig = {
  hidden: 1280,
  layers: 32,
  heads: 16,
  ffn: 3420,
  patchPixels: 14,
  mergeSide: 2,
  windowPixels: 112,
  fullAttention: [7, 15, 23, 31],
  eps: 1e-6,
};

/** Sizes that all published models share. */
const SHARED = {
  family: QWEN2_5_VL_NAME,
  headDim: 128,
  vocab: 152_064,
  rmsEps: 1e-6,
  ropeTheta: 1e6,
  maxPositions: 128_000,
  axisOfPair: axesOf([16, 24, 24]),
  tiedHead: false,
  bosId: 151_643,
  eosIds: [151_645, 151_643],
  vision: PUBLISHED_TOWER,
  pictures: PUBLISHED_PICTURES,
};

/** Sizes of the 32B and 72B are from memory: their config.json was not at hand. */
// biome-ignore format: columns line up
export const PRESETS = {
  "qwen2.5-vl-3b":  { ...SHARED, hidden: 2048, layers: 36, heads: 16, kvHeads: 2, ffn: 11_008, vocab: 151_936, tiedHead: true },
  "qwen2.5-vl-7b":  { ...SHARED, hidden: 3584, layers: 28, heads: 28, kvHeads: 4, ffn: 18_944 },
  "qwen2.5-vl-32b": { ...SHARED, hidden: 5120, layers: 64, heads: 40, kvHeads: 8, ffn: 27_648, vision: { ...PUBLISHED_TOWER, ffn: 3456 } },
  "qwen2.5-vl-72b": { ...SHARED, hidden: 8192, layers: 80, heads: 64, kvHeads: 8, ffn: 29_568, vision: { ...PUBLISHED_TOWER, ffn: 3456 } },
} satisfies Record<string, Qwen2_5VlConfig>;

/**
 * Returns the axis that turns each pair of a head's dims, (D/2): the first pairs by time, the next by height,
 * the last by width. sections: pairs of each axis, mrope_section in config.json.
 */
export function axesOf(sections: readonly number[]): number[] {
  return sections.flatMap((pairs, axis) => new Array<number>(pairs).fill(axis));
}
