/** The weights of the vision tower and the projector as records of tensors. W is the tower's width. */
import type { AffineLinear, LayerNorm } from "../../nn/affine.ts";
import type { TileLayer } from "../../nn/tileLayer.ts";
import type { Tensor } from "../../torch/tensor.ts";
import type { PlacedReader } from "../family.ts";
import type { Base } from "../precision/bases.ts";
import type { XComposerConfig } from "./spec.ts";
import { PROJECTOR_NAMES, SEPARATOR_NAMES, VISION_PREFIX, visionLayerPrefix } from "./tensors.ts";

export interface VisionWeights {
  /** (W, 3 * patch * patch) */
  patch: Tensor;
  /** (W) */
  classEmbedding: Tensor;
  /** (patches + 1, W) */
  positions: Tensor;
  preNorm: LayerNorm;
  layers: TileLayer[];
  projector: [AffineLinear, AffineLinear];
  /**
   * For pictures in tiles, each (1, 4W): glbGN parts the global view from the tiles, subGN ends each row of
   * tokens.
   */
  separators: { glbGN: Tensor; subGN: Tensor } | undefined;
}

/** Reads the record; base: the precision of its linears. */
export function assembleVision(
  { vision }: XComposerConfig,
  { tensor: read, matrix }: PlacedReader,
  base: Base | undefined,
): VisionWeights {
  const width = vision.hidden;
  const norm = (name: string): LayerNorm => ({
    weight: read(`${name}.weight`),
    bias: read(`${name}.bias`),
    eps: vision.eps,
  });
  const affine = (name: string): AffineLinear => ({
    weight: matrix(`${name}.weight`, base),
    bias: read(`${name}.bias`),
  });
  const layer = (index: number): TileLayer => {
    const prefix = visionLayerPrefix(index);
    const linear = (name: string): AffineLinear => affine(`${prefix}${name}`);
    return {
      norm1: norm(`${prefix}layer_norm1`),
      norm2: norm(`${prefix}layer_norm2`),
      qkv: [linear("self_attn.q_proj"), linear("self_attn.k_proj"), linear("self_attn.v_proj")],
      out: linear("self_attn.out_proj"),
      fc1: linear("mlp.fc1"),
      fc2: linear("mlp.fc2"),
    };
  };
  return {
    patch: read(`${VISION_PREFIX}embeddings.patch_embedding.weight`).view([width, -1]),
    classEmbedding: read(`${VISION_PREFIX}embeddings.class_embedding`),
    positions: read(`${VISION_PREFIX}embeddings.position_embedding.weight`),
    preNorm: norm(`${VISION_PREFIX}pre_layrnorm`),
    layers: Array.from({ length: vision.layers }, (_, index) => layer(index)),
    projector: [affine(PROJECTOR_NAMES[0]), affine(PROJECTOR_NAMES[1])],
    separators: vision.isWhole
      ? undefined
      : {
          glbGN: read(SEPARATOR_NAMES.glb).view([1, 4 * width]),
          subGN: read(SEPARATOR_NAMES.sub).view([1, 4 * width]),
        },
  };
}
