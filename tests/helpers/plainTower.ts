/**
 * Qwen2.5-VL's tower in plain operators, as its formulas read: patches row by row, windows by a mask over all
 * pairs of patches, both frames of a picture in the first product.
 */
import type { PatchPicture } from "../../src/data/pictures/patches/patchPixels.ts";
import type { Qwen2_5VlConfig } from "../../src/models/qwen2_5_vl/spec.ts";
import type { TowerLayer, TowerWeights } from "../../src/models/qwen2_5_vl/visionWeights.ts";
import type { AffineLinear } from "../../src/nn/affine.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import type { RmsNorm } from "../../src/nn/norm.ts";
import { cat, fromArray } from "../../src/torch/create.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";

interface Place {
  row: number;
  column: number;
  window: string;
}

/** Returns a picture's tokens, (tokens, C), in float64. */
export function plainTower(weights: TowerWeights, config: Qwen2_5VlConfig, picture: PatchPicture): Tensor {
  return scope(() => {
    const { vision } = config;
    const places = placesOf(picture, config);
    let hidden = pixels(picture, config).mm(weights.patch.view([vision.hidden, -1]).t()); // (P, W)
    for (const [index, layer] of weights.layers.entries()) {
      const mask = vision.fullAttention.includes(index) ? undefined : maskOf(places);
      hidden = hidden.add(attention(norm(hidden, layer.norm1), layer, places, mask, config));
      const x = norm(hidden, layer.norm2);
      hidden = hidden.add(affine(affine(x, layer.gate).silu().mul(affine(x, layer.up)), layer.down));
    }
    const { norm: last, mlp } = weights.merger;
    const merged = norm(hidden, last).view([picture.tokens, -1]);
    return affine(affine(merged, mlp[0]).gelu(), mlp[1]);
  });
}

/** Returns the patches in the order of the picture: token by token, four patches each. */
function placesOf({ rows, columns }: PatchPicture, { vision }: Qwen2_5VlConfig): Place[] {
  const { mergeSide: side, windowPixels, patchPixels } = vision;
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
function pixels({ patches, tokens }: PatchPicture, { pictures, vision }: Qwen2_5VlConfig): Tensor {
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
  { qkv, proj }: TowerLayer,
  places: readonly Place[],
  mask: Tensor | undefined,
  { vision: { heads, hidden } }: Qwen2_5VlConfig,
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

function norm(x: Tensor, { weight, eps }: RmsNorm): Tensor {
  return x.mul(x.square().meanDim([-1], { keepdim: true }).add(eps).rsqrt()).mul(weight);
}

function affine(x: Tensor, { weight, bias }: AffineLinear): Tensor {
  return x.mm(frozenValues(weight, { dtype: "float64" }).t()).add(bias!);
}
