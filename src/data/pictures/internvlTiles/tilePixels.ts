/** The pixels of a picture's tiles, in the order in which the tower reads them. */
import { decodeImage } from "../decode.ts";
import type { DecodeSettings, PlacedPicture } from "../form.ts";
import { cutPatches, joinPatches } from "../patchOrder.ts";
import { type Raster, resizeBicubicPillow, resizeBicubicTorch } from "../resize.ts";
import { gridOf, type ThumbnailGrid } from "./tileGrid.ts";
import type { TileRules } from "./tileRules.ts";

/** A picture in the form that the model reads. */
export interface TiledPicture extends ThumbnailGrid {
  /**
   * (units * patches of a tile, 3 * patchPixels^2): a patch is [channel, y, x]. Tiles stand row by row, the
   * thumbnail last, and the patches of a tile row by row.
   */
  patches: Uint8Array;
}

/** A picture as it was just loaded. */
export interface LoadedTiles extends TiledPicture, PlacedPicture {}

/** Decodes and transforms a picture; throws a UserError that names the file. */
export async function loadTiles(
  path: string,
  limit: number,
  rules: TileRules,
  settings: DecodeSettings,
): Promise<LoadedTiles> {
  const picture = await decodeImage(path, settings);
  const { width, height } = picture;
  const grid = gridOf(picture, limit, rules);
  const { rows, columns, units } = grid;
  const side = rules.tilePixels;
  const resize = rules.isWhole || settings.compat === "pil" ? resizeBicubicPillow : resizeBicubicTorch;
  const canvas = resize(picture, { width: columns * side, height: rows * side });
  const patches = new Uint8Array(units * side ** 2 * 3);
  const put = (tile: Raster, at: number): void =>
    cutPatches(tile, rules.patchPixels, 1, patches.subarray(at * side ** 2 * 3));
  for (let at = 0; at < rows * columns; at++)
    put(tileAt(canvas, side, Math.floor(at / columns), at % columns), at);
  if (units > rows * columns) put(resize(picture, { width: side, height: side }), rows * columns);
  return { ...grid, source: { width, height }, patches };
}

function tileAt({ width, pixels }: Raster, side: number, row: number, column: number): Raster {
  const tile = new Uint8Array(side ** 2 * 3);
  for (let y = 0; y < side; y++) {
    const from = ((row * side + y) * width + column * side) * 3;
    tile.set(pixels.subarray(from, from + side * 3), y * side * 3);
  }
  return { width: side, height: side, pixels: tile };
}

/** Returns a black picture of a layout. */
export function blackTiles(grid: ThumbnailGrid, { tilePixels }: TileRules): TiledPicture {
  return { ...grid, patches: new Uint8Array(grid.units * tilePixels ** 2 * 3) };
}

/** Returns a tile as pixels again. */
export function tileRaster({ patches }: TiledPicture, tile: number, rules: TileRules): Raster {
  const side = rules.tilePixels;
  const bytes = side ** 2 * 3;
  const own = patches.subarray(tile * bytes, (tile + 1) * bytes);
  return joinPatches(own, { width: side, height: side }, rules.patchPixels, 1);
}

/** Returns the tiles as one picture again, without the thumbnail. */
export function canvasRaster(picture: TiledPicture, rules: TileRules): Raster {
  const { rows, columns } = picture;
  const side = rules.tilePixels;
  const width = columns * side;
  const pixels = new Uint8Array(rows * columns * side ** 2 * 3);
  for (let at = 0; at < rows * columns; at++) {
    const tile = tileRaster(picture, at, rules);
    const [row, column] = [Math.floor(at / columns), at % columns];
    for (let y = 0; y < side; y++)
      pixels.set(
        tile.pixels.subarray(y * side * 3, (y + 1) * side * 3),
        ((row * side + y) * width + column * side) * 3,
      );
  }
  return { width, height: rows * side, pixels };
}
