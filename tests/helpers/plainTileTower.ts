/** InternVL's tower in plain operators, as its formulas read: one tile after the other. */
import type { TiledPicture } from "../../src/data/pictures/internvlTiles/tilePixels.ts";
import type { TileRules } from "../../src/data/pictures/internvlTiles/tileRules.ts";
import type { InternVlConfig } from "../../src/models/internvl/spec.ts";
import type { TowerWeights } from "../../src/models/internvl/visionWeights.ts";
import type { AffineLinear, LayerNorm } from "../../src/nn/affine.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import type { RmsNorm } from "../../src/nn/norm.ts";
import type { TileLayer } from "../../src/nn/tileLayer.ts";
import { cat, fromArray } from "../../src/torch/create.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";

/** Returns a picture's tokens, (tokens, C), in float64. */
export function plainTileTower(weights: TowerWeights, config: InternVlConfig, picture: TiledPicture): Tensor {
  return scope(() => {
    const tiles = Array.from({ length: picture.units }, (_, tile) =>
      tokensOf(weights, config, picture, tile),
    );
    return cat(tiles, 0);
  });
}

function tokensOf(
  weights: TowerWeights,
  config: InternVlConfig,
  picture: TiledPicture,
  tile: number,
): Tensor {
  const { tilePixels, patchPixels, hidden: W, heads } = config.vision;
  const side = tilePixels / patchPixels;
  const patches = affine(pixelsOf(picture, config, tile), weights.patch); // (P, W)
  let x = cat([weights.classToken.view([1, W]), patches], 0).add(weights.positions.select(0, 0));
  for (const layer of weights.layers) {
    const [ofAttention, ofMlp] = layer.scales!;
    x = x.add(attention(normed(x, layer.norm1), layer, heads).mul(ofAttention));
    x = x.add(affine(affine(normed(x, layer.norm2), layer.fc1).gelu(), layer.fc2).mul(ofMlp));
  }
  const at = (row: number, column: number): Tensor => x.select(0, 1 + row * side + column);
  const tokens = Array.from({ length: (side / 2) ** 2 }, (_, token) => {
    const [row, column] = [2 * Math.floor(token / (side / 2)), 2 * (token % (side / 2))];
    const square = [at(row, column), at(row, column + 1), at(row + 1, column), at(row + 1, column + 1)];
    return cat(square, 0).view([1, 4 * W]);
  });
  const { norm, linears } = weights.projector;
  return affine(affine(normed(cat(tokens, 0), norm), linears[0]).gelu(), linears[1]);
}

/** Returns the normalised pixels of a tile's patches, (P, 3 p²). */
function pixelsOf({ patches }: TiledPicture, { vision, pictures }: InternVlConfig, tile: number): Tensor {
  const bytes = 3 * vision.tilePixels ** 2;
  return normalised(patches.subarray(tile * bytes, (tile + 1) * bytes), pictures);
}

/** Returns the normalised pixels of patches, (P, 3 p²). */
export function normalised(
  bytes: Uint8Array,
  { patchPixels: p, mean, std }: Pick<TileRules, "patchPixels" | "mean" | "std">,
): Tensor {
  const values = Float64Array.from(bytes, (value, at) => {
    const channel = Math.floor(at / p ** 2) % 3;
    return (value / 255 - mean[channel]!) / std[channel]!;
  });
  return fromArray(values, [bytes.length / (3 * p * p), 3 * p * p], { dtype: "float64" });
}

/** Returns what a layer attends to, (P+1, W). */
export function attention(x: Tensor, { qkv, qkNorms, out }: TileLayer, heads: number): Tensor {
  const [positions, W] = x.shape as [number, number];
  const made = cat(
    qkv.map((linear) => affine(x, linear)),
    1,
  ); // (P+1, 3W)
  const [query, key, value] = [0, 1, 2].map((part) => {
    const own = made.narrow(1, part * W, W);
    const norm = qkNorms?.[part];
    return (norm ? normed(own, norm) : own).contiguous().view([positions, heads, -1]).transpose(0, 1);
  }) as [Tensor, Tensor, Tensor];
  const scores = query.matmul(key.transpose(1, 2)).mul((W / heads) ** -0.5); // (H, P+1, P+1)
  const attended = scores.softmax(-1).matmul(value); // (H, P+1, D)
  return affine(attended.transpose(0, 1).reshape([positions, W]), out);
}

export function normed(x: Tensor, norm: LayerNorm | RmsNorm): Tensor {
  const mean = (of: Tensor): Tensor => of.meanDim([-1], { keepdim: true });
  const centred = "bias" in norm ? x.sub(mean(x)) : x;
  const scaled = centred.mul(mean(centred.square()).add(norm.eps).rsqrt()).mul(norm.weight);
  return "bias" in norm ? scaled.add(norm.bias) : scaled;
}

export function affine(x: Tensor, { weight, bias }: AffineLinear): Tensor {
  const y = x.mm(frozenValues(weight, { dtype: "float64" }).t());
  return bias ? y.add(bias) : y;
}
