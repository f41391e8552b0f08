/** The weights of Qwen2.5-VL's tower and merger as records of tensors. */
import type { AffineLinear } from "../../nn/affine.ts";
import type { RmsNorm } from "../../nn/norm.ts";
import type { PlacedReader } from "../family.ts";
import type { GatedMlp, PatchLayer, PatchTowerWeights } from "../patchTower/towerWeights.ts";
import type { Base } from "../precision/bases.ts";
import type { Qwen2_5VlConfig } from "./spec.ts";
import { VISION_LAYERS_PREFIX, VISION_PREFIX } from "./tensors.ts";

export type TowerLayer = PatchLayer<GatedMlp> & { norm1: RmsNorm; norm2: RmsNorm };

export interface TowerWeights extends PatchTowerWeights<GatedMlp> {
  layers: TowerLayer[];
  merger: { norm: RmsNorm; mlp: [AffineLinear, AffineLinear] };
}

/** Reads the record; base: the precision of its linears. */
export function assembleTower(
  { vision: { layers, eps } }: Qwen2_5VlConfig,
  { tensor, matrix }: PlacedReader,
  base: Base | undefined,
): TowerWeights {
  const norm = (name: string): RmsNorm => ({ weight: tensor(`${name}.weight`), eps });
  const affine = (name: string): AffineLinear => ({
    weight: matrix(`${name}.weight`, base),
    bias: tensor(`${name}.bias`),
  });
  const layer = (index: number): TowerLayer => {
    const prefix = `${VISION_LAYERS_PREFIX}${index}.`;
    return {
      norm1: norm(`${prefix}norm1`),
      norm2: norm(`${prefix}norm2`),
      qkv: affine(`${prefix}attn.qkv`),
      proj: affine(`${prefix}attn.proj`),
      gate: affine(`${prefix}mlp.gate_proj`),
      up: affine(`${prefix}mlp.up_proj`),
      down: affine(`${prefix}mlp.down_proj`),
    };
  };
  const merger = `${VISION_PREFIX}merger.`;
  return {
    patch: tensor(`${VISION_PREFIX}patch_embed.proj.weight`),
    layers: Array.from({ length: layers }, (_, index) => layer(index)),
    merger: {
      norm: norm(`${merger}ln_q`),
      mlp: [affine(`${merger}mlp.0`), affine(`${merger}mlp.2`)],
    },
  };
}
