/**
 * Pictures to image tokens: the CLIP tower over [global view, tiles row by row], each 2x2 square of patches
 * merged to one token, a separator after every row of tokens, and the projector. Frozen, so without a graph,
 * a batch of tiles at a time: a tile is uploaded, normalised, encoded and projected straight into its place
 * among the tokens, and only those outlive the batch.
 *
 * W is the tower's width, S the tokens along a tile's side (P = 4 S²). Source: the official 4KHD tower
 * (build_mlp.py), CLIP.
 */
import { PIXEL_MEAN, PIXEL_STD } from "../../data/pictures/hdTiles/globalView.ts";
import type { TileGrid } from "../../data/pictures/hdTiles/hdGrid.ts";
import type { HdImage } from "../../data/pictures/hdTiles/hdImage.ts";
import { affine, normed } from "../../nn/affine.ts";
import { frozenShape } from "../../nn/frozen/frozen.ts";
import { forEachPart, kindsOf, type Rows, rowCount, rowsOf, shifted, tilesOf } from "../../nn/rows.ts";
import { addTileLayer_, mergeSquares } from "../../nn/tileLayer.ts";
import { cat, empty, fromArray } from "../../torch/create.ts";
import { category } from "../../torch/device.ts";
import type { Device, DType } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { repeated } from "../../torch/trace.ts";
import type { EncodeOptions } from "../family.ts";
import type { VisionConfig, XComposerConfig } from "./spec.ts";
import type { VisionWeights } from "./visionWeights.ts";

/** A picture, or only its layout: a plan on meta needs no pixels. */
export type Picture = HdImage | TileGrid;

/**
 * Image tokens of a picture, (imageTokens(rows, cols), C). Beside them, n tiles at a time need max(6 n, 5 n +
 * 4) tensors of (P+1, W) at the peak (F = 4 W): 6.8 MiB a tile of the official tower in bfloat16, 10.2 MiB
 * for one alone. Quantised, the tower's matrices are read back into a scratch besides (nn/frozen/frozen.ts).
 */
export function encodeImage(
  vision: VisionWeights,
  config: XComposerConfig,
  picture: Picture,
  options: EncodeOptions,
): Tensor {
  return scope(() => {
    const { dtype, device } = options;
    const C = frozenShape(vision.projector[1].weight)[0]!;
    const tokens = empty([imageRows(config.vision, picture), C], { dtype, device });
    for (const _ of encodeImageInto(tokens, vision, config, picture, options));
    return tokens;
  });
}

/**
 * Writes image tokens into rows of a larger tensor, (tokens, C). Yields after each batch, with no scope open.
 */
export function* encodeImageInto(
  tokens: Tensor,
  vision: VisionWeights,
  { vision: config }: XComposerConfig,
  picture: Picture,
  options: EncodeOptions,
): Generator<{ done: number; total: number }, void> {
  const { start, end: total } = options.units ?? { start: 0, end: picture.units };
  if (start === 0) scope(() => writeSeparators(tokenGrids(tokens, config, picture), vision));
  const batches = tilesOf(total - start, options.visionBatch).map((batch) => shifted(batch, start));
  for (const { part: batch, times } of kindsOf(batches, batchKind)) {
    const encodeBatch = (): void => {
      const merged = scope(() => mergeSquares(encodeTiles(vision, config, picture, batch, options)));
      writeTiles(tokenGrids(tokens, config, picture), project(merged, vision), batch, config, picture);
    };
    repeated(times, () => scope(encodeBatch));
    yield { done: batch.end, total };
  }
}

/** Returns the kind of a batch of tiles. The first has the global view, which comes in float32. */
function batchKind({ start, end }: Rows): string {
  return `${start === 0 ? "global" : "tiles"} ${end - start}`;
}

/** Features of a range of [global view, tiles], without the class token: (n, P, W). */
export function encodeTiles(
  vision: VisionWeights,
  config: VisionConfig,
  picture: Picture,
  batch: Rows,
  options: EncodeOptions,
): Tensor {
  const pixels = (): Tensor => pixelPatches(config, picture, batch, options);
  return encodeSquares(vision, config, rowCount(batch), pixels, options);
}

/**
 * Features of n squares of pixels, without the class token: (n, P, W). pixels: makes their patches,
 * normalised, (n, P, 3 p²).
 */
export function encodeSquares(
  vision: VisionWeights,
  config: VisionConfig,
  n: number,
  pixels: () => Tensor,
  options: EncodeOptions,
): Tensor {
  return scope(() => {
    const hidden = embedPatches(vision, n, pixels, options); // (n, P+1, W)
    forEachPart(
      vision.layers,
      () => "layer",
      (layer) => addTileLayer_(hidden, layer, { heads: config.heads, activate_: quickGelu_ }),
    );
    return hidden.narrow(1, 1, hidden.shape[1]! - 1);
  });
}

/**
 * The places of tokens: grids of the global view and of the tiles, each with a column of separators, and the
 * row between them.
 */
interface TokenGrids {
  /** (S, S+1, C) */
  global: Tensor;
  /** (1, C) */
  between: Tensor;
  /** (S * rows, S * cols + 1, C) */
  tiles: Tensor;
}

function tokenGrids(tokens: Tensor, config: VisionConfig, { rows, cols }: Picture): TokenGrids {
  const S = tokensAlongSide(config);
  const C = tokens.shape[1]!;
  const globalRows = S * (S + 1);
  const tileRows = S * rows * (S * cols + 1);
  return {
    global: tokens.narrow(0, 0, globalRows).view([S, S + 1, C]),
    between: tokens.narrow(0, globalRows, 1),
    tiles: tokens.narrow(0, globalRows + 1, tileRows).view([S * rows, S * cols + 1, C]),
  };
}

/** Tokens of a picture: those of the global view and the tiles, separators, and the one between. */
function imageRows(config: VisionConfig, { rows, cols }: Picture): number {
  const S = tokensAlongSide(config);
  return S * (S + 1) + 1 + S * rows * (S * cols + 1);
}

function tokensAlongSide({ imagePixels, patchPixels }: VisionConfig): number {
  return imagePixels / patchPixels / 2;
}

/** Separators are as wide as four patches and pass the projector like them. */
function writeSeparators({ global, between, tiles }: TokenGrids, vision: VisionWeights): void {
  const { subGN, glbGN } = vision.separators!;
  const separators = project(cat([subGN, glbGN], 0), vision); // (2, C)
  const rowEnd = separators.narrow(0, 0, 1);
  for (const grid of [global, tiles]) grid.narrow(1, grid.shape[1]! - 1, 1).copy_(rowEnd);
  between.copy_(separators.narrow(0, 1, 1));
}

/** projected: (n S², C), the tokens of a range of [global view, tiles]. */
function writeTiles(
  grids: TokenGrids,
  projected: Tensor,
  batch: Rows,
  config: VisionConfig,
  { cols }: Picture,
): void {
  const S = tokensAlongSide(config);
  const squares = projected.view([-1, S, S, projected.shape[1]!]); // (n, S, S, C)
  for (let index = batch.start; index < batch.end; index++) {
    const tile = index - 1; // the first of the range is the global view
    const place =
      index === 0
        ? grids.global.narrow(1, 0, S)
        : grids.tiles.narrow(0, Math.floor(tile / cols) * S, S).narrow(1, (tile % cols) * S, S);
    place.copy_(squares.select(0, index - batch.start));
  }
}

/** (rows, 4W) -> (rows, C); W without merging */
export function project(x: Tensor, { projector: [first, second] }: VisionWeights): Tensor {
  return scope(() => affine(affine(x, first).gelu(), second));
}

/** The tower's input: class token and patches with their positions, normed: (n, P+1, W). */
function embedPatches(
  vision: VisionWeights,
  n: number,
  pixels: () => Tensor,
  { dtype, device }: EncodeOptions,
): Tensor {
  return scope(() => {
    const [positions, W] = vision.positions.shape as [number, number];
    const hidden = empty([n, positions, W], { dtype, device });
    hidden.narrow(1, 0, 1).copy_(vision.classEmbedding);
    scope(() => {
      const patches = pixels();
      const [, P, inputs] = patches.shape as [number, number, number];
      // By mm itself, for a linear without a bias calls one past our own products in a run, and not on meta.
      const embedded = patches.view([n * P, inputs]).mm(vision.patch.t()); // (n P, W)
      hidden.narrow(1, 1, positions - 1).copy_(embedded.view([n, P, W]));
    });
    return normed(hidden.add_(vision.positions), vision.preNorm);
  });
}

/**
 * Pixels of a range of [global view, tiles], normalised, by patch and in the order of the convolution: (n, P,
 * 3 p²).
 */
function pixelPatches(
  config: VisionConfig,
  picture: Picture,
  batch: Rows,
  { dtype, device }: EncodeOptions,
): Tensor {
  return scope(() => {
    const { imagePixels, patchPixels: p } = config;
    const side = imagePixels / p;
    const n = batch.end - batch.start;
    const patches = empty([n, side, side, 3, p, p], { dtype, device });
    const tiles = { start: Math.max(batch.start, 1) - 1, end: batch.end - 1 };
    const tileCount = tiles.end - tiles.start;
    if (tileCount < n) {
      scope(() => {
        const view = "globalView" in picture ? picture.globalView : undefined;
        const pixels = upload(view, [1, 3, side, p, side, p], { dtype: "float32", device });
        rowsOf(patches, { start: 0, end: 1 }).copy_(pixels.permute([0, 2, 4, 1, 3, 5]));
      });
    }
    if (tileCount > 0) {
      scope(() => {
        const bytes = "pixels" in picture ? cutTiles(picture, tiles, imagePixels) : undefined;
        const pixels = normalise(upload(bytes, [tileCount, side, p, side, p, 3], { dtype: "uint8", device }));
        rowsOf(patches, { start: n - tileCount, end: n }).copy_(pixels.permute([0, 1, 3, 5, 2, 4]));
      });
    }
    return patches.view([n, side * side, 3 * p * p]);
  });
}

/** The pixels of tiles one after the other, (n, tilePixels, tilePixels, 3), cut out of the picture. */
function cutTiles({ pixels, cols }: HdImage, tiles: Rows, tilePixels: number): Uint8Array {
  const lineBytes = tilePixels * 3;
  const cut = new Uint8Array((tiles.end - tiles.start) * tilePixels * lineBytes);
  let offset = 0;
  for (let tile = tiles.start; tile < tiles.end; tile++) {
    for (let line = 0; line < tilePixels; line++) {
      const from = ((Math.floor(tile / cols) * tilePixels + line) * cols + (tile % cols)) * lineBytes;
      cut.set(pixels.subarray(from, from + lineBytes), offset);
      offset += lineBytes;
    }
  }
  return cut;
}

/** Bytes to what CLIP was trained on, in float32. pixels: (..., 3) uint8. */
function normalise(pixels: Tensor): Tensor {
  return scope(() => {
    const { device } = pixels;
    const mean = fromArray([...PIXEL_MEAN], [3], { device });
    const std = fromArray([...PIXEL_STD], [3], { device });
    return pixels.to({ dtype: "float32" }).div_(255).sub_(mean).div_(std);
  });
}

/** A tensor of the data, or of no data where there is only a plan. */
function upload(
  data: Uint8Array | Float32Array | undefined,
  shape: number[],
  options: { dtype: DType; device: Device },
): Tensor {
  return category("inputData", () => (data ? fromArray(data, shape, options) : empty(shape, options)));
}

/** x * sigmoid(1.702 x), CLIP's stand-in for GELU, in place. */
function quickGelu_(x: Tensor): void {
  x.mul_(x.mul(1.702).sigmoid_());
}
