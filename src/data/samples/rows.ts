/** Counts the rows that a sample takes in a sequence, with those of its pictures, and its labels. */
import { type PictureLayout, pictureTokens } from "../pictures/form.ts";
import type { EncodedSample } from "./dialogue.ts";
import { IGNORE } from "./sample.ts";

/**
 * Returns the rows of a sample: one for each token, and for each picture's slot as many as the picture has
 * tokens.
 */
export function sampleRows({ inputIds }: EncodedSample, grids: readonly PictureLayout[]): number {
  return inputIds.length - grids.length + pictureTokens(grids);
}

/** Returns how many of the labels (or targets) are learned. */
export function countLabels(labels: Int32Array): number {
  return labels.reduce((count, label) => count + (label === IGNORE ? 0 : 1), 0);
}

/**
 * Returns the index of the first label (or target) that is learned, from `start` on; undefined if there is
 * none.
 */
export function firstLabel(labels: Int32Array, start = 0): number | undefined {
  const first = labels.findIndex((label, at) => at >= start && label !== IGNORE);
  return first < 0 ? undefined : first;
}
