/** Cuts pixels into patches in the order in which towers read them, and joins patches again. */
import type { Raster, ResizeSize } from "./resize.ts";

/**
 * Writes the patches of a picture into an array: a patch is [channel, y, x]. Blocks of mergeSide x mergeSide
 * patches stand row by row, and so do the patches of a block.
 */
export function cutPatches(
  { width, height, pixels }: Raster,
  patchPixels: number,
  mergeSide: number,
  into: Uint8Array,
): void {
  for (const { at, from } of rowsOfPatches({ width, height }, patchPixels, mergeSide))
    for (let x = 0; x < patchPixels; x++)
      for (let channel = 0; channel < 3; channel++)
        into[at + channel * patchPixels ** 2 + x] = pixels[from + 3 * x + channel] as number;
}

/** Returns the picture of patches that cutPatches has cut. */
export function joinPatches(
  patches: Uint8Array,
  size: ResizeSize,
  patchPixels: number,
  mergeSide: number,
): Raster {
  const pixels = new Uint8Array(patches.length);
  for (const { at, from } of rowsOfPatches(size, patchPixels, mergeSide))
    for (let x = 0; x < patchPixels; x++)
      for (let channel = 0; channel < 3; channel++)
        pixels[from + 3 * x + channel] = patches[at + channel * patchPixels ** 2 + x] as number;
  return { ...size, pixels };
}

/** Yields the rows of pixels of all patches: where a row begins among the patches, and in the picture. */
function* rowsOfPatches(
  { width, height }: ResizeSize,
  side: number,
  mergeSide: number,
): Generator<{ at: number; from: number }> {
  const patchBytes = 3 * side ** 2;
  const [rows, columns] = [height / side, width / side];
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const block = Math.floor(row / mergeSide) * (columns / mergeSide) + Math.floor(column / mergeSide);
      const patch = block * mergeSide ** 2 + (row % mergeSide) * mergeSide + (column % mergeSide);
      for (let y = 0; y < side; y++)
        yield { at: patch * patchBytes + y * side, from: ((row * side + y) * width + column * side) * 3 };
    }
}
