/** Pictures in the form that the model reads: tiles of pixels, and a global view of one tile. */
import { decodeImage } from "../decode.ts";
import type { PlacedPicture } from "../form.ts";
import type { ImageCompat } from "../imageCompat.ts";
import { type Raster, resizeBilinear } from "../resize.ts";
import { pictureName } from "../source.ts";
import { globalView } from "./globalView.ts";
import { type HdGrid, hdGrid, TILE_PIXELS, type TileGrid, tileGrid } from "./hdGrid.ts";

/** A picture in the form that the model reads. */
export interface HdImage extends TileGrid {
  /** (rows * 336, cols * 336, 3) RGB */
  pixels: Uint8Array;
  /** (3, 336, 336), normalised */
  globalView: Float32Array;
}

/** A picture as it was just loaded. */
export interface LoadedHdImage extends HdImage, PlacedPicture {}

/** Decodes and transforms a picture; throws a UserError that names the file. */
export async function loadHdImage(
  path: string,
  hdNum: number,
  compat: ImageCompat,
  options: { maxPixels?: number | undefined } = {},
): Promise<LoadedHdImage> {
  const picture = await decodeImage(path, { compat, ...options });
  return hdTransform(picture, hdGrid(picture.width, picture.height, hdNum, pictureName(path)));
}

/** Resizes and pads the picture as its grid says, and makes its global view. */
export function hdTransform(picture: Raster, grid: HdGrid): LoadedHdImage {
  const { rows, cols } = grid;
  const size = { width: grid.resizedWidth, height: grid.resizedHeight };
  const pixels = pad(
    resizeBilinear(picture, size, grid.transposed ? "vertical first" : "horizontal first"),
    grid,
  );
  const view = globalView(pixels, rows, cols, TILE_PIXELS);
  return { ...tileGrid(rows, cols), source: grid.source, pixels, globalView: view };
}

/** Returns a black picture of a layout. */
export function blackImage({ rows, cols }: TileGrid): HdImage {
  return {
    ...tileGrid(rows, cols),
    pixels: new Uint8Array(rows * cols * TILE_PIXELS * TILE_PIXELS * 3),
    globalView: new Float32Array(3 * TILE_PIXELS * TILE_PIXELS),
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
