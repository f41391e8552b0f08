/**
 * The tower of patches in plain operators, as its formulas read: patches row by row, windows by a mask over
 * all pairs of patches, both frames of a picture in the first product.
 */
import type { PatchPicture } from "../../src/data/pictures/patches/patchPixels.ts";
import type {
  Merger,
  PatchLayer,
  PatchTowerConfig,
  PatchTowerWeights,
} from "../../src/models/patchTower/towerWeights.ts";
import type { AffineLinear, LayerNorm } from "../../src/nn/affine.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import type { RmsNorm } from "../../src/nn/norm.ts";
import { cat, fromArray } from "../../src/torch/create.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";

interface Place {
  row: number;
  column: number;
  window: string;
}

/** Returns a picture's tokens, then the features for each layer of the decoder, (tokens, C), in float64. */
export function plainTower(
  weights: PatchTowerWeights,
  config: PatchTowerConfig,
  picture: PatchPicture,
): Tensor[] {
  return scope(() => {
    const { vision } = config;
    const places = placesOf(picture, config);
    let hidden = pixels(picture, config).mm(weights.patch.view([vision.hidden, -1]).t()); // (P, W)
    if (weights.patchBias) hidden = hidden.add(weights.patchBias);
    if (weights.positions)
      hidden = hidden.add(learned(weights.positions, places, vision.positionSide!, picture));
    const features: Tensor[] = [];
    for (const [index, layer] of weights.layers.entries()) {
      const isFull = vision.fullAttention?.includes(index) ?? true;
      const mask = isFull ? undefined : maskOf(places);
      hidden = hidden.add(attention(norm(hidden, layer.norm1), layer, places, mask, config));
      hidden = hidden.add(mlp(norm(hidden, layer.norm2), layer));
      const at = vision.deepstackLayers?.indexOf(index) ?? -1;
      if (at >= 0) features[at] = merged(hidden, weights.deepstack![at]!, picture);
    }
    return [merged(hidden, weights.merger, picture), ...features];
  });
}

function mlp(x: Tensor, layer: PatchLayer): Tensor {
  if ("gate" in layer) return affine(affine(x, layer.gate).silu().mul(affine(x, layer.up)), layer.down);
  return affine(affine(x, layer.fc1).gelu({ approximate: "tanh" }), layer.fc2);
}

function merged(hidden: Tensor, { norm: own, normsToken, mlp }: Merger, { tokens }: PatchPicture): Tensor {
  const x = normsToken ? norm(hidden.view([tokens, -1]), own) : norm(hidden, own).view([tokens, -1]);
  return affine(affine(x, mlp[0]).gelu(), mlp[1]);
}

/** Sums, for each patch, all points of the grid by how near they are: a point one step away has no share. */
function learned(
  table: Tensor,
  places: readonly Place[],
  side: number,
  { rows, columns }: PatchPicture,
): Tensor {
  const [height, width] = [2 * rows, 2 * columns];
  const shares = places.flatMap(({ row, column }) =>
    Array.from({ length: side ** 2 }, (_, point) => {
      const down = (row * (side - 1)) / (height - 1) - Math.floor(point / side);
      const across = (column * (side - 1)) / (width - 1) - (point % side);
      return Math.max(0, 1 - Math.abs(down)) * Math.max(0, 1 - Math.abs(across));
    }),
  );
  return fromArray(Float64Array.from(shares), [places.length, side ** 2], { dtype: "float64" }).mm(table);
}

/** Returns the patches in the order of the picture: token by token, four patches each. */
function placesOf({ rows, columns }: PatchPicture, { vision }: PatchTowerConfig): Place[] {
  const { mergeSide: side, windowPixels = 0, patchPixels } = vision;
  const windowSide = Math.floor(windowPixels / patchPixels / side);
  return Array.from({ length: rows * columns * side ** 2 }, (_, patch) => {
    const token = Math.floor(patch / side ** 2);
    const [tokenRow, tokenColumn] = [Math.floor(token / columns), token % columns];
    const within = patch % side ** 2;
    return {
      row: tokenRow * side + Math.floor(within / side),
      column: tokenColumn * side + (within % side),
      window: `${Math.floor(tokenRow / windowSide)} ${Math.floor(tokenColumn / windowSide)}`,
    };
  });
}

/** Returns the normalised pixels of both frames: (P, 3 * 2 * p * p). */
function pixels({ patches, tokens }: PatchPicture, { pictures, vision }: PatchTowerConfig): Tensor {
  const { patchPixels: p, mergeSide } = vision;
  const count = tokens * mergeSide ** 2;
  const values = Float64Array.from(patches, (value, at) => {
    const channel = Math.floor(at / p ** 2) % 3;
    return (value / 255 - pictures.mean[channel]!) / pictures.std[channel]!;
  });
  const frame = fromArray(values, [count, 3, 1, p * p], { dtype: "float64" });
  return cat([frame, frame], 2).view([count, -1]);
}

function maskOf(places: readonly Place[]): Tensor {
  const apart = places.flatMap((one) => places.map((other) => (one.window === other.window ? 0 : 1)));
  return fromArray(Uint8Array.from(apart), [places.length, places.length], { dtype: "bool" });
}

function attention(
  x: Tensor,
  { qkv, proj }: PatchLayer,
  places: readonly Place[],
  mask: Tensor | undefined,
  { vision: { heads, hidden } }: PatchTowerConfig,
): Tensor {
  const D = hidden / heads;
  const made = affine(x, qkv).view([-1, 3, heads, D]);
  const part = (index: number): Tensor => made.select(1, index).transpose(0, 1); // (H, P, D)
  const [query, key] = [0, 1].map((index) => rotated(part(index), places, D));
  const scores = query!.matmul(key!.transpose(1, 2)).mul(D ** -0.5); // (H, P, P)
  const seen = mask ? scores.maskedFill(mask, Number.NEGATIVE_INFINITY) : scores;
  const out = seen.softmax(-1).matmul(part(2)); // (H, P, D)
  return affine(out.transpose(0, 1).reshape([-1, hidden]), proj);
}

/** Turns pair i, dims i and i + D/2, with the row for the first half of the pairs, with the column after. */
function rotated(x: Tensor, places: readonly Place[], D: number): Tensor {
  const quarter = D / 4;
  const angles = places.flatMap(({ row, column }) =>
    Array.from({ length: D / 2 }, (_, pair) => {
      const frequency = Math.fround(1 / 10_000 ** ((pair % quarter) / quarter));
      return Math.fround((pair < quarter ? row : column) * frequency);
    }),
  );
  const table = (of: (angle: number) => number): Tensor =>
    fromArray(
      Float64Array.from(angles, (angle) => of(angle)),
      [places.length, D / 2],
      { dtype: "float64" },
    );
  const [cos, sin] = [table(Math.cos), table(Math.sin)];
  const [first, second] = [x.narrow(2, 0, D / 2), x.narrow(2, D / 2, D / 2)];
  return cat([first.mul(cos).sub(second.mul(sin)), second.mul(cos).add(first.mul(sin))], 2);
}

function norm(x: Tensor, given: RmsNorm | LayerNorm): Tensor {
  const { weight, eps } = given;
  if ("bias" in given) {
    const centred = x.sub(x.meanDim([-1], { keepdim: true }));
    return norm(centred, { weight, eps }).add(given.bias);
  }
  return x.mul(x.square().meanDim([-1], { keepdim: true }).add(eps).rsqrt()).mul(weight);
}

function affine(x: Tensor, { weight, bias }: AffineLinear): Tensor {
  return x.mm(frozenValues(weight, { dtype: "float64" }).t()).add(bias!);
}
