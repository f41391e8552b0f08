/**
 * Prepares pictures for the model. The HD transform scales a picture up or down to the largest grid of tiles
 * that hd_num allows, pads the short side with white, and adds a global view of one tile. Source:
 * InternLM-XComposer, finetune/ixc_utils.py, HD_transform.
 */
import { UserError } from "../../errors.ts";
import { decodeImage, type ImageCompat, readHeader } from "./decode.ts";
import { globalView } from "./globalView.ts";
import { type Raster, resizeBilinear } from "./resize.ts";
import { pictureName } from "./source.ts";

/** Width and height of a tile in pixels. */
export const TILE_PIXELS = 336;

/** A tile is 24 x 24 patches of 14 pixels, merged two by two: 12 x 12 tokens. */
const TILE_SIDE_TOKENS = 12;

/** About 100 times the usual hd_num. The pixels of so many tiles still fit in one array. */
const HD_NUM_MAX = 5_000;

/** Size of a picture in pixels. */
export interface PictureSize {
  width: number;
  height: number;
}

/** A picture's layout as everything outside its model family sees it. */
export interface PictureLayout {
  /** Rows of the sequence that the picture takes. */
  tokens: number;
  /** Tiles that the vision tower encodes, the global view among them. */
  tiles: number;
}

/** The grid of tiles that a picture is cut into. Only 4KHD's own code looks at rows and columns. */
export interface TileGrid extends PictureLayout {
  rows: number;
  cols: number;
}

/** Returns the layout of a grid. */
export function tileGrid(rows: number, cols: number): TileGrid {
  return { rows, cols, tokens: imageTokens(rows, cols), tiles: 1 + rows * cols };
}

/** Returns a picture's layout without its pixels: all that a plan knows of it. */
export function layoutOf({ rows, cols }: TileGrid): TileGrid {
  return tileGrid(rows, cols);
}

/** Returns a black picture of a layout. */
export function blackImage({ rows, cols }: TileGrid): HdImage {
  return {
    ...tileGrid(rows, cols),
    pixels: new Uint8Array(rows * cols * TILE_PIXELS * TILE_PIXELS * 3),
    globalView: new Float32Array(3 * TILE_PIXELS * TILE_PIXELS),
  };
}

/** Returns whether two pictures take as many rows and tiles: all that memory depends on. */
export function isSameLayout(one: PictureLayout, other: PictureLayout): boolean {
  return one.tokens === other.tokens && one.tiles === other.tiles;
}

/** Place of a picture in its grid of tiles, in pixels of the final picture. */
export interface HdGrid extends TileGrid {
  /** Size of the picture before it is scaled. */
  source: PictureSize;
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

/** A picture in the form that the model reads. */
export interface HdImage extends TileGrid {
  /** (rows * 336, cols * 336, 3) RGB */
  pixels: Uint8Array;
  /** (3, 336, 336), normalised */
  globalView: Float32Array;
}

/** A picture as it was just loaded. */
export interface LoadedImage extends HdImage {
  /** Size of the picture before it was scaled. */
  source: PictureSize;
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
  const { tokens, tiles } = tileGrid(rows, cols);
  return {
    rows,
    cols,
    tiles,
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

/** Returns the tokens of several pictures. */
export function pictureTokens(pictures: readonly PictureLayout[]): number {
  return pictures.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** Returns the size in pixels from the file's header alone: as stored for "official", as shown otherwise. */
export async function imageSize(path: string, compat: ImageCompat): Promise<PictureSize> {
  const { width, height, shown } = await readHeader(path);
  return compat === "official" ? { width, height } : shown;
}

/** Decodes and transforms a picture; throws a UserError that names the file. */
export async function loadHdImage(
  path: string,
  hdNum: number,
  compat: ImageCompat,
  options: { maxPixels?: number | undefined } = {},
): Promise<LoadedImage> {
  const picture = await decodeImage(path, { compat, ...options });
  return hdTransform(picture, hdGrid(picture.width, picture.height, hdNum, pictureName(path)));
}

/** Resizes and pads the picture as its grid says, and makes its global view. */
export function hdTransform(picture: Raster, grid: HdGrid): LoadedImage {
  const { rows, cols } = grid;
  const size = { width: grid.resizedWidth, height: grid.resizedHeight };
  const pixels = pad(
    resizeBilinear(picture, size, grid.transposed ? "vertical first" : "horizontal first"),
    grid,
  );
  const view = globalView(pixels, rows, cols, TILE_PIXELS);
  return { ...tileGrid(rows, cols), source: grid.source, pixels, globalView: view };
}

/** Returns the tiles along the longer side: the most that keep the whole grid within hd_num. */
function longestSide(ratio: number, hdNum: number): number {
  let tiles = 1;
  while ((tiles + 1) * Math.ceil((tiles + 1) / ratio) <= hdNum) tiles++;
  return tiles;
}

/** Pads into a new array, even without padding: sharp's own arrays cannot be moved between threads. */
function pad({ width, height, pixels }: Raster, grid: HdGrid): Uint8Array {
  const padded = new Uint8Array(grid.width * grid.height * 3).fill(255);
  for (let y = 0; y < height; y++) {
    const row = pixels.subarray(y * width * 3, (y + 1) * width * 3);
    padded.set(row, ((grid.padTop + y) * grid.width + grid.padLeft) * 3);
  }
  return padded;
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
