/** The weights of InternVL's tower and projector as records of tensors. W is the tower's width. */
import type { AffineLinear, LayerNorm } from "../../nn/affine.ts";
import { denseMatrix } from "../../nn/frozen/frozen.ts";
import type { RmsNorm } from "../../nn/norm.ts";
import type { TileLayer } from "../../nn/tileLayer.ts";
import type { Tensor } from "../../torch/tensor.ts";
import type { PlacedReader } from "../family.ts";
import type { Base } from "../precision/bases.ts";
import type { InternVlConfig } from "./spec.ts";
import { MLP_LINEARS, VISION_NAMES } from "./tensors.ts";

/** PyTorch's default, which the projector's norm has. */
const PROJECTOR_EPS = 1e-5;

/** Queries and keys are normed with this, whatever the configuration says of other norms. */
const QK_EPS = 1e-6;

export interface TowerWeights {
  /** (W, 3 patch²) */
  patch: AffineLinear;
  /** (1, 1, W) */
  classToken: Tensor;
  /** (1, P + 1, W) */
  positions: Tensor;
  layers: TileLayer[];
  projector: { norm: LayerNorm; linears: [AffineLinear, AffineLinear] };
}

/** Reads the record; base: the precision of its linears. */
export function assembleTower(
  { vision, layout }: InternVlConfig,
  { tensor, matrix }: PlacedReader,
  base: Base | undefined,
): TowerWeights {
  const names = VISION_NAMES[layout];
  const layerNorm = (name: string, eps: number): LayerNorm => ({
    weight: tensor(`${name}.weight`),
    bias: tensor(`${name}.bias`),
    eps,
  });
  const rms = (name: string, eps: number): RmsNorm => ({ weight: tensor(`${name}.weight`), eps });
  const norm = vision.norm === "layer_norm" ? layerNorm : rms;
  const affine = (name: string, hasBias = true): AffineLinear => ({
    weight: matrix(`${name}.weight`, base),
    bias: hasBias ? tensor(`${name}.bias`) : undefined,
  });
  const layer = (index: number): TileLayer => {
    const prefix = `${names.layers}${index}.`;
    return {
      norm1: norm(`${prefix}${names.norms[0]}`, vision.eps),
      norm2: norm(`${prefix}${names.norms[1]}`, vision.eps),
      qkv: names.qkv.map((name) => affine(`${prefix}${name}`, vision.qkvBias)),
      ...(vision.qkNorm && { qkNorms: names.qkNorms.map((name) => rms(`${prefix}${name}`, QK_EPS)) }),
      out: affine(`${prefix}${names.out}`),
      fc1: affine(`${prefix}${MLP_LINEARS[0]}`),
      fc2: affine(`${prefix}${MLP_LINEARS[1]}`),
      scales: [tensor(`${prefix}${names.scales[0]}`), tensor(`${prefix}${names.scales[1]}`)],
    };
  };
  const { projector } = names;
  return {
    patch: {
      weight: denseMatrix(tensor(`${names.patch}.weight`).view([vision.hidden, -1])),
      bias: tensor(`${names.patch}.bias`),
    },
    classToken: tensor(names.classToken),
    positions: tensor(names.positions),
    layers: Array.from({ length: vision.layers }, (_, index) => layer(index)),
    projector: {
      norm: layerNorm(projector.norm, PROJECTOR_EPS),
      linears: [affine(projector.linears[0]), affine(projector.linears[1])],
    },
  };
}
