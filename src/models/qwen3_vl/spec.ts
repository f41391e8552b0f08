/**
 * The sizes of the dense Qwen3-VL models. Source of the facts: transformers, models/qwen3_vl; sizes of the
 * presets are from memory, agreeing with public derivatives. Dims as in xcomposer2/spec.ts.
 */
import type { PatchRules } from "../../data/pictures/patches/patchRules.ts";
import type { ModelConfig } from "../family.ts";
import type { PatchTowerSizes } from "../patchTower/towerWeights.ts";

export interface DeepTowerConfig extends PatchTowerSizes {
  ffn: number;
  positionSide: number;
  deepstackLayers: readonly number[];
  eps: number;
}

export interface Qwen3VlConfig extends ModelConfig {
  vision: DeepTowerConfig;
  pictures: PatchRules;
}

/** The family's name in the tables. */
export const QWEN3_VL_NAME = "qwen3_vl";

/** How published checkpoints lay out pictures, by their preprocessor_config.json. */
const PUBLISHED_PICTURES: PatchRules = {
  form: "patches",
  patchPixels: 16,
  mergeSide: 2,
  minPixels: 65_536,
  maxPixels: 16_777_216,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
};

/** The tower of the 2B and 4B, and that of the larger ones. */
const TOWER_OF_SMALL: DeepTowerConfig = {
  hidden: 1024,
  layers: 24,
  heads: 16,
  ffn: 4096,
  patchPixels: 16,
  mergeSide: 2,
  positionSide: 48,
  deepstackLayers: [5, 11, 17],
  eps: 1e-6,
};

const TOWER: DeepTowerConfig = {
  ...TOWER_OF_SMALL,
  ...{ hidden: 1152, layers: 27, ffn: 4304, deepstackLayers: [8, 16, 24] },
};

/** Sizes that all published models share. */
const SHARED = {
  family: QWEN3_VL_NAME,
  headDim: 128,
  kvHeads: 8,
  vocab: 151_936,
  rmsEps: 1e-6,
  hasHeadNorms: true,
  ropeTheta: 5e6,
  maxPositions: 262_144,
  axisOfPair: interleavedAxes([24, 20, 20]),
  tiedHead: false,
  bosId: 151_643,
  eosIds: [151_645, 151_643],
  vision: TOWER,
  pictures: PUBLISHED_PICTURES,
};

// biome-ignore format: columns line up
export const PRESETS = {
  "qwen3-vl-2b":  { ...SHARED, hidden: 2048, layers: 28, heads: 16, ffn: 6144,   tiedHead: true, vision: TOWER_OF_SMALL },
  "qwen3-vl-4b":  { ...SHARED, hidden: 2560, layers: 36, heads: 32, ffn: 9728,   tiedHead: true, vision: TOWER_OF_SMALL },
  "qwen3-vl-8b":  { ...SHARED, hidden: 4096, layers: 36, heads: 32, ffn: 12_288 },
  "qwen3-vl-32b": { ...SHARED, hidden: 5120, layers: 64, heads: 64, ffn: 25_600 },
} satisfies Record<string, Qwen3VlConfig>;

/**
 * Returns the axis that turns each pair of a head's dims, (D/2): time, height and width take turns until an
 * axis has its pairs; what is left is time's. sections: pairs of each axis, mrope_section in config.json.
 */
export function interleavedAxes(sections: readonly number[]): number[] {
  const pairs = sections.reduce((sum, own) => sum + own, 0);
  return Array.from({ length: pairs }, (_, pair) => (pair < 3 * sections[pair % 3]! ? pair % 3 : 0));
}
