/**
 * The sizes of InternLM-XComposer2.
 *
 * Dims legend, here and nowhere else: T tokens, C hidden, H query heads, G kv heads, Q = H/G query heads of a
 * kv head, D head dim, F feed-forward, V vocabulary, R LoRA rank, P image patches, N tiles. Source of the
 * facts: the official modelling code of InternLM-XComposer2 (PLoRA ranks and scalings of 4KHD: lmdeploy's
 * turbomind configuration `_lora_cfg_4khd_7b`).
 */
import type { PictureRules } from "../../data/pictures/forms.ts";
import { PIXEL_MEAN, PIXEL_STD } from "../../data/pictures/hdTiles/globalView.ts";
import { KHD_RULES, XCOMPOSER2_5_RULES } from "../../data/pictures/hdTiles/hdRules.ts";
import type { ModelConfig } from "../family.ts";

export const XCOMPOSER_LINEARS = [
  "attention.wqkv",
  "attention.wo",
  "feed_forward.w1",
  "feed_forward.w2",
  "feed_forward.w3",
] as const;

/** The official LoRA targets: every linear of every decoder layer. */
export const OFFICIAL_TARGETS = "attention\\.(wqkv|wo)$|feed_forward\\.(w1|w2|w3)$";

/** The linears of a decoder layer, each with PLoRA, each a LoRA target. */
export type XComposerLinear = (typeof XCOMPOSER_LINEARS)[number];

export interface PloraConfig {
  rank: number;
  scale: number;
}

export interface VisionConfig {
  hidden: number;
  layers: number;
  heads: number;
  ffn: number;
  imagePixels: number;
  patchPixels: number;
  eps: number;
  /**
   * Whether a picture is one square of `imagePixels`, and each of its patches a token: without tiles, merging
   * and separators.
   */
  isWhole?: boolean;
}

export interface XComposerConfig extends ModelConfig {
  /** Whether attention's linears have biases; false if undefined. No published model has them. */
  bias?: boolean;
  vision: VisionConfig;
  /** By linear of a layer. */
  plora: Record<XComposerLinear, PloraConfig>;
}

export const CLIP_VIT_L_14_336: VisionConfig = {
  hidden: 1024,
  layers: 24,
  heads: 16,
  ffn: 4096,
  imagePixels: 336,
  patchPixels: 14,
  eps: 1e-5,
};

/** The tower of InternLM-XComposer2.5. */
const CLIP_VIT_L_14_560: VisionConfig = { ...CLIP_VIT_L_14_336, imagePixels: 560 };

/**
 * The tower of InternLM-XComposer2-VL. Source: its official code, build_mlp.py (positions resized to 490
 * pixels) and the transform of modeling_internlm_xcomposer2.py.
 */
const CLIP_VIT_L_14_490: VisionConfig = { ...CLIP_VIT_L_14_336, imagePixels: 490, isWhole: true };

/** Returns how a model of the line lays out pictures, by its tower. */
export function xcomposerRules({ vision }: Pick<XComposerConfig, "vision">): PictureRules {
  const { imagePixels, patchPixels, isWhole } = vision;
  if (!isWhole) return imagePixels === CLIP_VIT_L_14_560.imagePixels ? XCOMPOSER2_5_RULES : KHD_RULES;
  return {
    ...{ form: "internvlTiles", isWhole, minTiles: 1, maxTiles: 1 },
    ...{ tilePixels: imagePixels, patchPixels, tileTokens: (imagePixels / patchPixels) ** 2 },
    ...{ mean: PIXEL_MEAN, std: PIXEL_STD },
  };
}

/** The towers by the number of their positions, the class token's included. */
export const TOWERS_BY_POSITIONS: ReadonlyMap<number, VisionConfig> = new Map(
  [CLIP_VIT_L_14_336, CLIP_VIT_L_14_490, CLIP_VIT_L_14_560].map((tower) => [
    (tower.imagePixels / tower.patchPixels) ** 2 + 1,
    tower,
  ]),
);

/** The decoder of all three: InternLM2-7B. For 2.5 and VL its sizes are from memory. */
const DECODER_7B = {
  family: "xcomposer2-4khd",
  hidden: 4096,
  layers: 32,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  ffn: 14336,
  vocab: 92544,
  rmsEps: 1e-5,
  ropeTheta: 1e6,
  maxPositions: 32768,
  bosId: 1,
  ropeScaling: { kind: "dynamic", factor: 1 },
  eosIds: [2],
} as const;

const PLORA_256 = {
  "attention.wqkv": { rank: 256, scale: 1 },
  "attention.wo": { rank: 256, scale: 1 },
  "feed_forward.w1": { rank: 256, scale: 1 },
  "feed_forward.w2": { rank: 256, scale: 1 },
  "feed_forward.w3": { rank: 256, scale: 1 },
} as const;

/** Models that can be planned without a checkpoint. */
export const PRESETS = {
  "4khd-7b": {
    ...DECODER_7B,
    vision: CLIP_VIT_L_14_336,
    plora: { ...PLORA_256, "attention.wqkv": { rank: 8, scale: 2 } },
  },
  "xcomposer2.5-7b": { ...DECODER_7B, vision: CLIP_VIT_L_14_560, plora: PLORA_256 },
  "xcomposer2-vl-7b": { ...DECODER_7B, vision: CLIP_VIT_L_14_490, plora: PLORA_256 },
} as const satisfies Record<string, XComposerConfig>;
