/** Pictures in the form that the model reads: tiles of pixels, and a global view of one tile. */
import { decodeImage } from "../decode.ts";
import type { PlacedPicture } from "../form.ts";
import type { ImageCompat } from "../imageCompat.ts";
import { type Raster, resizeBilinear } from "../resize.ts";
import { pictureName } from "../source.ts";
import { globalView } from "./globalView.ts";
import { type HdGrid, hdGrid, type TileGrid, tileGrid } from "./hdGrid.ts";
import { type HdRules, KHD_RULES, tilePixelsOf } from "./hdRules.ts";

/** A picture in the form that the model reads. */
export interface HdImage extends TileGrid {
  /** (rows * side, cols * side, 3) RGB; side: pixels along a tile */
  pixels: Uint8Array;
  /** (3, side, side), normalised */
  globalView: Float32Array;
}

/** A picture as it was just loaded. */
export interface LoadedHdImage extends HdImage, PlacedPicture {}

/** Decodes and transforms a picture; throws a UserError that names the file. */
export async function loadHdImage(
  path: string,
  hdNum: number,
  compat: ImageCompat,
  options: { maxPixels?: number | undefined; rules?: HdRules } = {},
): Promise<LoadedHdImage> {
  const { rules = KHD_RULES, ...limits } = options;
  const picture = await decodeImage(path, { compat, ...limits });
  const grid = hdGrid(picture.width, picture.height, hdNum, pictureName(path), rules);
  return hdTransform(picture, grid, rules);
}

/** Resizes and pads the picture as its grid says, and makes its global view. */
export function hdTransform(picture: Raster, grid: HdGrid, rules: HdRules = KHD_RULES): LoadedHdImage {
  const { rows, cols } = grid;
  const size = { width: grid.resizedWidth, height: grid.resizedHeight };
  const pixels = pad(
    resizeBilinear(picture, size, grid.transposed ? "vertical first" : "horizontal first"),
    grid,
  );
  const view = globalView(pixels, rows, cols, tilePixelsOf(rules));
  return { ...tileGrid(rows, cols, rules), source: grid.source, pixels, globalView: view };
}

/** Returns a black picture of a layout. */
export function blackImage({ rows, cols }: TileGrid, rules: HdRules = KHD_RULES): HdImage {
  const tilePixels = tilePixelsOf(rules);
  return {
    ...tileGrid(rows, cols, rules),
    pixels: new Uint8Array(rows * cols * tilePixels * tilePixels * 3),
    globalView: new Float32Array(3 * tilePixels * tilePixels),
  };
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
