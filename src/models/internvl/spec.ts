/**
 * The sizes of InternVL3 and 3.5. Source of the facts: transformers, models/internvl, and
 * OpenGVLab/InternVL. Dims as in xcomposer2/spec.ts; W is the tower's width, P the patches of a tile.
 */
import type { TileRules } from "../../data/pictures/internvlTiles/tileRules.ts";
import type { ModelConfig } from "../family.ts";

export interface TileTowerConfig {
  /** W */
  hidden: number;
  layers: number;
  heads: number;
  ffn: number;
  /** Pixels along the side of a tile, and of a patch. */
  tilePixels: number;
  patchPixels: number;
  norm: "layer_norm" | "rms_norm";
  /** Whether queries and keys are normed over the whole width. */
  qkNorm: boolean;
  /** Whether queries, keys and values have biases; the output linear always has one. */
  qkvBias: boolean;
  eps: number;
}

export interface InternVlConfig extends ModelConfig {
  /** Whether queries, keys and values of the decoder have biases, as Qwen2.5 has and Qwen3 has not. */
  qkvBias: boolean;
  /** How the checkpoint names its tensors: as transformers does, or as OpenGVLab's own code. */
  layout: "hf" | "original";
  vision: TileTowerConfig;
  pictures: TileRules;
}

/** The family's name in the tables. */
export const INTERNVL_NAME = "internvl";

/** Patches along the side of a token. */
export const MERGE_SIDE = 2;

/** How published checkpoints lay out pictures, by their preprocessor_config.json. */
const PUBLISHED_PICTURES: TileRules = {
  form: "internvlTiles",
  tilePixels: 448,
  patchPixels: 14,
  tileTokens: 256,
  minTiles: 1,
  maxTiles: 12,
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
};

/** InternViT-300M-448px-V2_5. */
const SMALL_TOWER: TileTowerConfig = {
  hidden: 1024,
  layers: 24,
  heads: 16,
  ffn: 4096,
  tilePixels: 448,
  patchPixels: 14,
  norm: "layer_norm",
  qkNorm: false,
  qkvBias: true,
  eps: 1e-6,
};

/** InternViT-6B-448px-V2_5. */
const LARGE_TOWER: TileTowerConfig = {
  ...SMALL_TOWER,
  ...{ hidden: 3200, layers: 45, heads: 25, ffn: 12_800 },
  ...{ norm: "rms_norm", qkNorm: true, qkvBias: false },
};

const SHARED = {
  family: INTERNVL_NAME,
  headDim: 128,
  rmsEps: 1e-6,
  ropeTheta: 1e6,
  tiedHead: false,
  bosId: 151_643,
  eosIds: [151_645],
  layout: "hf",
  vision: SMALL_TOWER,
  pictures: PUBLISHED_PICTURES,
} as const;

/** With a decoder of Qwen2.5. */
const V3 = {
  ...SHARED,
  qkvBias: true,
  vocab: 151_674,
  maxPositions: 32_768,
  ropeScaling: { kind: "dynamic", factor: 2 },
} as const;

/** With a decoder of Qwen3. */
const V3_5 = { ...SHARED, qkvBias: false, hasHeadNorms: true, vocab: 151_936, maxPositions: 40_960 } as const;

/** All sizes are from memory: no published config.json was at hand. */
// biome-ignore format: columns line up
export const PRESETS = {
  "internvl3-1b":    { ...V3, hidden: 896, layers: 24, heads: 14, kvHeads: 2, headDim: 64, ffn: 4864 },
  "internvl3-2b":    { ...V3, hidden: 1536, layers: 28, heads: 12, kvHeads: 2, ffn: 8960 },
  "internvl3-8b":    { ...V3, hidden: 3584, layers: 28, heads: 28, kvHeads: 4, ffn: 18_944 },
  "internvl3-14b":   { ...V3, hidden: 5120, layers: 48, heads: 40, kvHeads: 8, ffn: 13_824 },
  "internvl3-38b":   { ...V3, hidden: 5120, layers: 64, heads: 40, kvHeads: 8, ffn: 27_648, vision: LARGE_TOWER },
  "internvl3.5-1b":  { ...V3_5, hidden: 1024, layers: 28, heads: 16, kvHeads: 8, ffn: 3072 },
  "internvl3.5-2b":  { ...V3_5, hidden: 2048, layers: 28, heads: 16, kvHeads: 8, ffn: 6144 },
  "internvl3.5-4b":  { ...V3_5, hidden: 2560, layers: 36, heads: 32, kvHeads: 8, ffn: 9728 },
  "internvl3.5-8b":  { ...V3_5, hidden: 4096, layers: 36, heads: 32, kvHeads: 8, ffn: 12_288 },
  "internvl3.5-14b": { ...V3_5, hidden: 5120, layers: 40, heads: 40, kvHeads: 8, ffn: 17_408 },
  "internvl3.5-38b": { ...V3_5, hidden: 5120, layers: 64, heads: 64, kvHeads: 8, ffn: 25_600, vision: LARGE_TOWER },
} satisfies Record<string, InternVlConfig>;

/** Returns the tokens that a tile of a size becomes. */
export function tokensOfTile({ tilePixels, patchPixels }: TileTowerConfig): number {
  return (tilePixels / patchPixels / MERGE_SIDE) ** 2;
}
