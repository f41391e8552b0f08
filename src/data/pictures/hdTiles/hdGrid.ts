/**
 * The grid of tiles that a picture is cut into. The HD transform scales a picture up or down to the largest
 * grid of tiles that hd_num allows, and pads the short side with white. Source: InternLM-XComposer,
 * finetune/ixc_utils.py, HD_transform.
 */
import { UserError } from "../../../errors.ts";
import type { PictureLayout, PlacedPicture } from "../form.ts";

/** Width and height of a tile in pixels. */
export const TILE_PIXELS = 336;

/** A tile is 24 x 24 patches of 14 pixels, merged two by two: 12 x 12 tokens. */
const TILE_SIDE_TOKENS = 12;

/** About 100 times the usual hd_num. The pixels of so many tiles still fit in one array. */
const HD_NUM_MAX = 5_000;

/** The grid of a picture. Its units are tiles, the global view among them. */
export interface TileGrid extends PictureLayout {
  rows: number;
  cols: number;
}

/** Returns the layout of a grid. */
export function tileGrid(rows: number, cols: number): TileGrid {
  return { rows, cols, tokens: imageTokens(rows, cols), units: 1 + rows * cols };
}

/** Place of a picture in its grid of tiles, in pixels of the final picture. */
export interface HdGrid extends TileGrid, PlacedPicture {
  /** True for a portrait: the official code transposes it before the transform, and back after it. */
  transposed: boolean;
  resizedWidth: number;
  resizedHeight: number;
  padTop: number;
  padBottom: number;
  padLeft: number;
  padRight: number;
  /** Size after padding: cols and rows times TILE_PIXELS. */
  width: number;
  height: number;
}

/**
 * Returns the grid of a picture's size under hd_num. Throws a UserError if hd_num is below 1, or if the ratio
 * leaves no height.
 */
export function hdGrid(width: number, height: number, hdNum: number, name = "the picture"): HdGrid {
  checkHdNum(hdNum);
  const transposed = width < height;
  const ratio = transposed ? height / width : width / height;
  const longTiles = longestSide(ratio, hdNum);
  const longPixels = longTiles * TILE_PIXELS;
  const shortPixels = Math.trunc(longPixels / ratio);
  if (shortPixels === 0) throw tooExtreme(name, width, height, ratio, hdNum);

  const shortTiles = Math.ceil(shortPixels / TILE_PIXELS);
  const padding = shortTiles * TILE_PIXELS - shortPixels;
  const padFirst = Math.trunc(padding / 2);
  const [cols, rows] = transposed ? [shortTiles, longTiles] : [longTiles, shortTiles];
  const { tokens, units } = tileGrid(rows, cols);
  return {
    rows,
    cols,
    units,
    source: { width, height },
    transposed,
    resizedWidth: transposed ? shortPixels : longPixels,
    resizedHeight: transposed ? longPixels : shortPixels,
    padTop: transposed ? 0 : padFirst,
    padBottom: transposed ? 0 : padding - padFirst,
    padLeft: transposed ? padFirst : 0,
    padRight: transposed ? padding - padFirst : 0,
    width: cols * TILE_PIXELS,
    height: rows * TILE_PIXELS,
    tokens,
  };
}

/**
 * Returns the tokens of a picture: those of its tiles and its global view, one between the two, and one at
 * the end of each row of tokens.
 */
export function imageTokens(rows: number, cols: number): number {
  return (rows * cols + 1) * TILE_SIDE_TOKENS ** 2 + 1 + (rows + 1) * TILE_SIDE_TOKENS;
}

/**
 * Returns the grid with the most tokens that hd_num allows: a column, because every row of tiles ends with a
 * separator.
 */
export function largestGrid(hdNum: number): TileGrid {
  return tileGrid(hdNum, 1);
}

/**
 * Returns the grid of a picture with at most this many tokens, and at most 156 fewer; undefined if not even
 * one tile fits.
 */
export function gridOfTokens(tokens: number): TileGrid | undefined {
  const perTile = imageTokens(2, 1) - imageTokens(1, 1);
  const tiles = 1 + Math.floor((tokens - imageTokens(1, 1)) / perTile);
  return tiles >= 1 ? tileGrid(tiles, 1) : undefined;
}

/** Returns the tiles along the longer side: the most that keep the whole grid within hd_num. */
function longestSide(ratio: number, hdNum: number): number {
  let tiles = 1;
  while ((tiles + 1) * Math.ceil((tiles + 1) / ratio) <= hdNum) tiles++;
  return tiles;
}

function checkHdNum(hdNum: number): void {
  if (hdNum < 1) {
    throw new UserError(`--hd-num must be 1 or more (got ${hdNum}).`, {
      fix:
        "The official 4KHD script's default of -1 resizes every picture to a small square, which is not " +
        "what 4KHD was trained on. 16 and 25 are usual for training, 55 for reading dense documents.",
    });
  }
  if (!Number.isInteger(hdNum) || hdNum > HD_NUM_MAX) {
    throw new UserError(`--hd-num must be a whole number up to ${HD_NUM_MAX} (got ${hdNum}).`, {
      fix: "16 and 25 are usual for training, 55 for reading dense documents.",
    });
  }
}

function tooExtreme(name: string, width: number, height: number, ratio: number, hdNum: number): UserError {
  const leastTiles = Math.ceil(ratio / TILE_PIXELS);
  return new UserError(
    `${name}: ${width} x ${height} pixels, a ratio of ${Math.round(ratio)} to 1, would be less than ` +
      `a pixel ${width < height ? "wide" : "high"} at hd_num ${hdNum}.`,
    { fix: `Cut the picture into pieces, or pass --hd-num ${leastTiles} or more.` },
  );
}
