/** The pixels of a picture in the order in which a tower of patches reads them. */
import { decodeImage } from "../decode.ts";
import type { DecodeSettings, PlacedPicture } from "../form.ts";
import { cutPatches, joinPatches } from "../patchOrder.ts";
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
export function patchesOf(picture: Raster, { patchPixels, mergeSide }: PatchRules): Uint8Array {
  const patches = new Uint8Array(picture.pixels.length);
  cutPatches(picture, patchPixels, mergeSide, patches);
  return patches;
}

/** Puts patches together again. */
export function rasterOf(picture: PatchPicture, rules: PatchRules): Raster {
  return joinPatches(picture.patches, pixelsOf(picture, rules), rules.patchPixels, rules.mergeSide);
}
