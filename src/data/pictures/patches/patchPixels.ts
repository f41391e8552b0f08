/** The pixels of a picture in the order in which a tower of patches reads them. */
import { decodeImage } from "../decode.ts";
import type { DecodeSettings, PlacedPicture } from "../form.ts";
import { type Raster, resizeBicubicPillow, resizeBicubicTorch } from "../resize.ts";
import { pictureName } from "../source.ts";
import { gridOf, type PatchGrid, patchGrid, tokenSide } from "./patchGrid.ts";
import type { PatchRules } from "./patchRules.ts";

/** A picture in the form that the model reads. */
export interface PatchPicture extends PatchGrid {
  /**
   * (tokens * mergeSide^2, 3 * patchPixels^2): a patch is [channel, y, x]. Tokens stand row by row, and the
   * patches of a token row by row. Without the second frame, which is the same.
   */
  patches: Uint8Array;
}

/** A picture as it was just loaded. */
export interface LoadedPatches extends PatchPicture, PlacedPicture {}

/** Decodes and transforms a picture; throws a UserError that names the file. */
export async function loadPatches(
  path: string,
  limit: number,
  rules: PatchRules,
  settings: DecodeSettings,
): Promise<LoadedPatches> {
  const picture = await decodeImage(path, settings);
  const { width, height } = picture;
  const grid = gridOf(picture, limit, rules, pictureName(path));
  const resize = settings.compat === "pil" ? resizeBicubicPillow : resizeBicubicTorch;
  const patches = patchesOf(resize(picture, pixelsOf(grid, rules)), rules);
  return { ...grid, source: { width, height }, patches };
}

/** Returns the size in pixels of a grid. */
export function pixelsOf({ rows, columns }: PatchGrid, rules: PatchRules): { width: number; height: number } {
  const side = tokenSide(rules);
  return { width: columns * side, height: rows * side };
}

/** Returns a black picture of a layout. */
export function blackPatches({ rows, columns }: PatchGrid, rules: PatchRules): PatchPicture {
  return { ...patchGrid(rows, columns), patches: new Uint8Array(rows * columns * tokenSide(rules) ** 2 * 3) };
}

/** Cuts pixels into patches. */
export function patchesOf({ width, height, pixels }: Raster, rules: PatchRules): Uint8Array {
  const patches = new Uint8Array(pixels.length);
  for (const { at, from } of rowsOfPatches({ width, height }, rules))
    for (let x = 0; x < rules.patchPixels; x++)
      for (let channel = 0; channel < 3; channel++)
        patches[at + channel * rules.patchPixels ** 2 + x] = pixels[from + 3 * x + channel] as number;
  return patches;
}

/** Puts patches together again. */
export function rasterOf(picture: PatchPicture, rules: PatchRules): Raster {
  const size = pixelsOf(picture, rules);
  const pixels = new Uint8Array(picture.patches.length);
  for (const { at, from } of rowsOfPatches(size, rules))
    for (let x = 0; x < rules.patchPixels; x++)
      for (let channel = 0; channel < 3; channel++)
        pixels[from + 3 * x + channel] = picture.patches[at + channel * rules.patchPixels ** 2 + x] as number;
  return { ...size, pixels };
}

/** Yields the rows of pixels of all patches: where a row begins among the patches, and in the picture. */
function* rowsOfPatches(
  { width, height }: { width: number; height: number },
  { patchPixels: side, mergeSide }: PatchRules,
): Generator<{ at: number; from: number }> {
  const patchBytes = 3 * side ** 2;
  const [rows, columns] = [height / side, width / side];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const token = Math.floor(row / mergeSide) * (columns / mergeSide) + Math.floor(column / mergeSide);
      const patch = token * mergeSide ** 2 + (row % mergeSide) * mergeSide + (column % mergeSide);
      for (let y = 0; y < side; y++)
        yield { at: patch * patchBytes + y * side, from: ((row * side + y) * width + column * side) * 3 };
    }
}
