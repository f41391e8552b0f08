/** The weights of Qwen3-VL's tower and mergers as records of tensors. */
import type { AffineLinear, LayerNorm } from "../../nn/affine.ts";
import type { PlacedReader } from "../family.ts";
import type { Merger, PatchLayer, PatchTowerWeights, PlainMlp } from "../patchTower/towerWeights.ts";
import type { Base } from "../precision/bases.ts";
import type { Qwen3VlConfig } from "./spec.ts";
import { DEEPSTACK_PREFIX, VISION_LAYERS_PREFIX, VISION_PREFIX } from "./tensors.ts";

export type TowerWeights = PatchTowerWeights<PlainMlp>;

/** Reads the record; base: the precision of its linears. */
export function assembleTower(
  { vision: { layers, eps, deepstackLayers } }: Qwen3VlConfig,
  { tensor, matrix }: PlacedReader,
  base: Base | undefined,
): TowerWeights {
  const norm = (name: string): LayerNorm => ({
    weight: tensor(`${name}.weight`),
    bias: tensor(`${name}.bias`),
    eps,
  });
  const affine = (name: string): AffineLinear => ({
    weight: matrix(`${name}.weight`, base),
    bias: tensor(`${name}.bias`),
  });
  const layer = (index: number): PatchLayer<PlainMlp> => {
    const prefix = `${VISION_LAYERS_PREFIX}${index}.`;
    return {
      norm1: norm(`${prefix}norm1`),
      norm2: norm(`${prefix}norm2`),
      qkv: affine(`${prefix}attn.qkv`),
      proj: affine(`${prefix}attn.proj`),
      fc1: affine(`${prefix}mlp.linear_fc1`),
      fc2: affine(`${prefix}mlp.linear_fc2`),
    };
  };
  const merger = (prefix: string): Merger => ({
    norm: norm(`${prefix}norm`),
    mlp: [affine(`${prefix}linear_fc1`), affine(`${prefix}linear_fc2`)],
  });
  return {
    patch: tensor(`${VISION_PREFIX}patch_embed.proj.weight`),
    patchBias: tensor(`${VISION_PREFIX}patch_embed.proj.bias`),
    positions: tensor(`${VISION_PREFIX}pos_embed.weight`),
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    merger: merger(`${VISION_PREFIX}merger.`),
    deepstack: deepstackLayers.map((_, index) => ({
      ...merger(`${DEEPSTACK_PREFIX}${index}.`),
      normsToken: true,
    })),
  };
}
