/** The sizes and weights of a tower of patches, as records that families fill. W is the tower's width. */
import type { PatchRules } from "../../data/pictures/patches/patchRules.ts";
import type { AffineLinear, LayerNorm } from "../../nn/affine.ts";
import type { RmsNorm } from "../../nn/norm.ts";
import type { Tensor } from "../../torch/tensor.ts";

export interface PatchTowerSizes {
  /** W */
  hidden: number;
  layers: number;
  heads: number;
  patchPixels: number;
  /** Patches along the side of a token. */
  mergeSide: number;
  /** Pixels along the side of an attention window; default: no layer attends within windows. */
  windowPixels?: number;
  /** Layers whose attention covers the whole picture, ascending, if the others attend within windows. */
  fullAttention?: readonly number[];
  /** Side of the square grid of learned positions, if the tower has them. */
  positionSide?: number;
  /** Layers whose output gives features for the decoder's layers, ascending, in the order of these. */
  deepstackLayers?: readonly number[];
}

/** The part of a model's configuration that its tower reads. */
export interface PatchTowerConfig {
  vision: PatchTowerSizes;
  pictures: PatchRules;
}

type Norm = RmsNorm | LayerNorm;

export interface GatedMlp {
  gate: AffineLinear;
  up: AffineLinear;
  down: AffineLinear;
}

/** With GELU between, by its tanh formula. */
export interface PlainMlp {
  fc1: AffineLinear;
  fc2: AffineLinear;
}

export type PatchLayer<Mlp extends GatedMlp | PlainMlp = GatedMlp | PlainMlp> = Mlp & {
  norm1: Norm;
  norm2: Norm;
  /** (3W, W): all queries, then all keys, then all values. */
  qkv: AffineLinear;
  proj: AffineLinear;
};

/** Makes a token of its patches, side by side: norm, linear, GELU, linear. */
export interface Merger {
  norm: Norm;
  /** Whether the norm is over all patches of a token together; default: over each. */
  normsToken?: boolean;
  mlp: [AffineLinear, AffineLinear];
}

export interface PatchTowerWeights<Mlp extends GatedMlp | PlainMlp = GatedMlp | PlainMlp> {
  /** (W, 3, 2, patch, patch): for two frames, which are the same for a picture. */
  patch: Tensor;
  /** (W) */
  patchBias?: Tensor;
  /** (side², W), row by row. */
  positions?: Tensor;
  layers: PatchLayer<Mlp>[];
  merger: Merger;
  /** One for each of deepstackLayers. */
  deepstack?: Merger[];
}
