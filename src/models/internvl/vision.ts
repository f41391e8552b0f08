/**
 * Pictures to image tokens: the tower over the tiles and the thumbnail, each 2x2 square of patches merged to
 * a token, and the projector. Frozen, so without a graph, some tiles at a time, straight into the rows. W is
 * the tower's width, P the patches of a tile. Source: transformers, models/internvl.
 */
import type { ThumbnailGrid } from "../../data/pictures/internvlTiles/tileGrid.ts";
import type { TiledPicture } from "../../data/pictures/internvlTiles/tilePixels.ts";
import { affine, normed } from "../../nn/affine.ts";
import { forEachPart, kindsOf, type Rows, rowCount, rowsOf, shifted, tilesOf } from "../../nn/rows.ts";
import { addTileLayer_, mergeSquares } from "../../nn/tileLayer.ts";
import { empty } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { repeated } from "../../torch/trace.ts";
import type { EncodeOptions } from "../family.ts";
import { normalisedPatches } from "../patchPixels.ts";
import { type InternVlConfig, tokensOfTile } from "./spec.ts";
import type { TowerWeights } from "./visionWeights.ts";

/** A picture, or only its layout: a plan on meta needs no pixels. */
export type Picture = ThumbnailGrid & Partial<Pick<TiledPicture, "patches">>;

/**
 * Writes image tokens into rows of a larger tensor, (tokens, C). Yields after each batch, with no scope open.
 */
export function* encodeInto(
  tokens: Tensor,
  weights: TowerWeights,
  config: InternVlConfig,
  picture: Picture,
  options: EncodeOptions,
): Generator<{ done: number; total: number }, void> {
  const { start, end: total } = options.units ?? { start: 0, end: picture.units };
  const tileTokens = tokensOfTile(config.vision);
  const batches = tilesOf(total - start, options.visionBatch).map((batch) => shifted(batch, start));
  for (const { part: batch, times } of kindsOf(batches, rowCount)) {
    const rows = { start: batch.start * tileTokens, end: batch.end * tileTokens };
    const encodeBatch = (): void => {
      const merged = scope(() => mergeSquares(encodeTiles(weights, config, picture, batch, options)));
      rowsOf(tokens, rows).copy_(project(merged, weights));
    };
    repeated(times, () => scope(encodeBatch));
    yield { done: batch.end, total };
  }
}

/** Returns the features of a range of tiles after the last layer, without the class token: (n, P, W). */
export function encodeTiles(
  weights: TowerWeights,
  config: InternVlConfig,
  picture: Picture,
  batch: Rows,
  options: EncodeOptions,
): Tensor {
  return scope(() => {
    const hidden = embedPatches(weights, config, picture, batch, options); // (n, P+1, W)
    const { heads } = config.vision;
    forEachPart(
      weights.layers,
      () => "layer",
      (layer) => addTileLayer_(hidden, layer, { heads, activate_: gelu_ }),
    );
    return hidden.narrow(1, 1, hidden.shape[1]! - 1);
  });
}

/** Returns the tower's input: class token and patches with their positions, (n, P+1, W). */
function embedPatches(
  { patch, classToken, positions }: TowerWeights,
  { vision, pictures }: InternVlConfig,
  { patches }: Picture,
  batch: Rows,
  options: EncodeOptions,
): Tensor {
  return scope(() => {
    const { dtype, device } = options;
    const [, count, W] = positions.shape as [number, number, number];
    const n = rowCount(batch);
    const [P, inputs] = [count - 1, 3 * vision.patchPixels ** 2];
    const tileBytes = P * inputs;
    const bytes = patches?.subarray(batch.start * tileBytes, batch.end * tileBytes);
    const hidden = empty([n, count, W], { dtype, device });
    hidden.narrow(1, 0, 1).copy_(classToken);
    scope(() => {
      const pixels = normalisedPatches(bytes, [n * P, inputs], pictures, options).to({ dtype });
      hidden.narrow(1, 1, P).copy_(affine(pixels, patch).view([n, P, W]));
    });
    return hidden.add_(positions);
  });
}

/** (rows, 4W) -> (rows, C) */
function project(x: Tensor, { projector: { norm, linears } }: TowerWeights): Tensor {
  return scope(() => affine(affine(normed(x, norm), linears[0]).gelu(), linears[1]));
}

/** GELU in place, exact. */
function gelu_(x: Tensor): void {
  x.copy_(x.gelu());
}
