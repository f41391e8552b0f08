/**
 * The grid of tiles that a picture is cut into. The HD transform scales a picture up or down to the largest
 * grid of tiles that hd_num allows, and pads the short side with white. Source: InternLM-XComposer,
 * finetune/ixc_utils.py, HD_transform.
 */
import { UserError } from "../../../errors.ts";
import type { PictureLayout, PlacedPicture } from "../form.ts";
import { type HdRules, KHD_RULES, tilePixelsOf, tileSideTokens } from "./hdRules.ts";

/** About 100 times the usual hd_num. The pixels of so many tiles still fit in one array. */
const HD_NUM_MAX = 5_000;

/** The grid of a picture. Its units are tiles, the global view among them. */
export interface TileGrid extends PictureLayout {
  rows: number;
  cols: number;
}

/** Returns the layout of a grid. */
export function tileGrid(rows: number, cols: number, rules: HdRules = KHD_RULES): TileGrid {
  return { rows, cols, tokens: imageTokens(rows, cols, rules), units: 1 + rows * cols };
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
  /** Size after padding: cols and rows times the side of a tile. */
  width: number;
  height: number;
}

/**
 * Returns the grid of a picture's size under hd_num. Throws a UserError if hd_num is below 1, or if the ratio
 * leaves no height.
 */
export function hdGrid(
  width: number,
  height: number,
  hdNum: number,
  name = "the picture",
  rules: HdRules = KHD_RULES,
): HdGrid {
  checkHdNum(hdNum);
  const tilePixels = tilePixelsOf(rules);
  const transposed = width < height;
  const ratio = transposed ? height / width : width / height;
  const { mostEnlarged = Number.POSITIVE_INFINITY } = rules;
  const most = Math.ceil((mostEnlarged * Math.max(width, height)) / tilePixels);
  const longTiles = Math.min(most, longestSide(ratio, hdNum));
  const longPixels = longTiles * tilePixels;
  const shortPixels = Math.trunc(longPixels / ratio);
  if (shortPixels === 0) throw tooExtreme(name, { width, height, ratio, tilePixels }, hdNum);

  const shortTiles = Math.ceil(shortPixels / tilePixels);
  const padding = shortTiles * tilePixels - shortPixels;
  const padFirst = Math.trunc(padding / 2);
  const [cols, rows] = transposed ? [shortTiles, longTiles] : [longTiles, shortTiles];
  const { tokens, units } = tileGrid(rows, cols, rules);
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
    width: cols * tilePixels,
    height: rows * tilePixels,
    tokens,
  };
}

/**
 * Returns the tokens of a picture: those of its tiles and its global view, one between the two, and one at
 * the end of each row of tokens.
 */
export function imageTokens(rows: number, cols: number, rules: HdRules = KHD_RULES): number {
  const side = tileSideTokens(rules);
  return (rows * cols + 1) * side ** 2 + 1 + (rows + 1) * side;
}

/**
 * Returns the grid with the most tokens that hd_num allows: a column, because every row of tiles ends with a
 * separator.
 */
export function largestGrid(hdNum: number, rules: HdRules = KHD_RULES): TileGrid {
  return tileGrid(hdNum, 1, rules);
}

/**
 * Returns the grid of a picture with at most this many tokens, and at most those of a tile fewer; undefined
 * if not even one tile fits.
 */
export function gridOfTokens(tokens: number, rules: HdRules = KHD_RULES): TileGrid | undefined {
  const least = imageTokens(1, 1, rules);
  const perTile = imageTokens(2, 1, rules) - least;
  const tiles = 1 + Math.floor((tokens - least) / perTile);
  return tiles >= 1 ? tileGrid(tiles, 1, rules) : undefined;
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

function tooExtreme(
  name: string,
  { width, height, ratio, tilePixels }: { width: number; height: number; ratio: number; tilePixels: number },
  hdNum: number,
): UserError {
  const leastTiles = Math.ceil(ratio / tilePixels);
  return new UserError(
    `${name}: ${width} x ${height} pixels, a ratio of ${Math.round(ratio)} to 1, would be less than ` +
      `a pixel ${width < height ? "wide" : "high"} at hd_num ${hdNum}.`,
    { fix: `Cut the picture into pieces, or pass --hd-num ${leastTiles} or more.` },
  );
}
