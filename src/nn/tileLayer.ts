/**
 * A layer of a vision tower that attends within each tile, as CLIP's and InternVL's do, and the merge of 2x2
 * patches to a token. Frozen, so without a graph. P is the patches of a tile, W the tower's width, S the
 * tokens along a tile's side (P = 4 S²).
 */
import { scope, type Tensor } from "../torch/tensor.ts";
import { type AffineLinear, addAffine_, affine, type LayerNorm, normed } from "./affine.ts";
import { fullAttention } from "./attention/kernels.ts";
import type { RmsNorm } from "./norm.ts";
import { forEachPart } from "./rows.ts";

export interface TileLayer {
  norm1: LayerNorm | RmsNorm;
  norm2: LayerNorm | RmsNorm;
  /** Linears of queries, keys and values; or one that makes all queries, then all keys, then all values. */
  qkv: readonly AffineLinear[];
  /** Norms of queries and of keys over all heads together. */
  qkNorms?: readonly RmsNorm[] | undefined;
  out: AffineLinear;
  fc1: AffineLinear;
  fc2: AffineLinear;
  /** (W): factors of what attention and MLP add. */
  scales?: readonly [attention: Tensor, mlp: Tensor];
}

export interface TileLayerOptions {
  heads: number;
  /** Applies the MLP's activation in place; x: (P+1, F). */
  activate_(x: Tensor): void;
}

/** Adds a layer's attention and MLP to hidden, (n, P+1, W); every position attends to all of its tile. */
export function addTileLayer_(hidden: Tensor, layer: TileLayer, options: TileLayerOptions): void {
  addAttention_(hidden, layer, options);
  addMlp_(hidden, layer, options);
}

function addAttention_(hidden: Tensor, layer: TileLayer, { heads }: TileLayerOptions): void {
  scope(() => {
    const [query, key, value] = scope(() => queriesKeysValues(hidden, layer, heads)); // (n, H, P+1, D)
    const out = fullAttention(query, key, value); // (n, H, P+1, D)
    addScaled_(hidden, out.transpose(1, 2).reshape(hidden.shape), layer.out, layer.scales?.[0]);
  });
}

function queriesKeysValues(
  hidden: Tensor,
  { norm1, qkv, qkNorms }: TileLayer,
  heads: number,
): [query: Tensor, key: Tensor, value: Tensor] {
  const W = hidden.shape[2]!;
  const x = normed(hidden, norm1);
  const wide = qkv.map((linear) => affine(x, linear)); // (n, P+1, W) each, or (n, P+1, 3W)
  const parts = [0, 1, 2].map((part) => {
    const made = wide.length === 1 ? wide[0]!.narrow(2, part * W, W) : wide[part]!;
    const norm = qkNorms?.[part];
    const own = norm ? scope(() => normed(made.contiguous(), norm)) : made;
    return own.unflatten(2, [heads, -1]).transpose(1, 2);
  });
  return parts as [Tensor, Tensor, Tensor];
}

function addMlp_(hidden: Tensor, layer: TileLayer, { activate_ }: TileLayerOptions): void {
  scope(() => {
    const x = scope(() => affine(normed(hidden, layer.norm2), layer.fc1)); // (n, P+1, F)
    forEachPart(
      [...Array(x.shape[0]!).keys()],
      () => "tile",
      (tile) => scope(() => activate_(x.select(0, tile))),
    );
    addScaled_(hidden, x, layer.fc2, layer.scales?.[1]);
  });
}

/** into += scale (x W^T + b). */
function addScaled_(into: Tensor, x: Tensor, linear: AffineLinear, scale: Tensor | undefined): void {
  if (scale) into.add_(affine(x, linear).mul_(scale));
  else addAffine_(into, x, linear);
}

/**
 * Features of patches to those of tokens: (n, P, W) -> (n S², 4W), the four patches in the order (0,0),
 * (0,1), (1,0), (1,1).
 */
export function mergeSquares(features: Tensor): Tensor {
  const [n, P, W] = features.shape as [number, number, number];
  const S = Math.sqrt(P) / 2;
  return features
    .view([n, S, 2, S, 2, W])
    .permute([0, 1, 3, 2, 4, 5])
    .reshape([n * S * S, 4 * W]);
}
