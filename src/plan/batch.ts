/** A micro-batch of which only the shape is known: what a plan runs the step on. */
import type { MicroBatch } from "../data/batches.ts";
import { IGNORE } from "../data/dialogue.ts";
import { imageTokens } from "../data/image.ts";
import { START } from "../data/packing.ts";

export interface Grid {
  rows: number;
  cols: number;
}

/** Samples that are alike, one after the other. */
export interface BatchShape {
  samples: number;
  /** Rows of each sample. */
  sampleTokens: number;
  /** Grids of the pictures of each sample, which come first in it. */
  pictures: readonly Grid[];
  /** Rows of each sample that have a label: its last ones. */
  labelTokens: number;
}

/** Image tokens of one sample. */
export function pictureTokens(pictures: readonly Grid[]): number {
  return pictures.reduce((sum, { rows, cols }) => sum + imageTokens(rows, cols), 0);
}

/** The grid with the most tokens that hd_num allows: a column, whose every row ends with a separator. */
export function largestGrid(hdNum: number): Grid {
  return { rows: hdNum, cols: 1 };
}

/** A picture of at most so many tokens and within 156 of it; undefined where not even one tile fits. */
export function gridOfTokens(tokens: number): Grid | undefined {
  const perTile = imageTokens(2, 1) - imageTokens(1, 1);
  const tiles = 1 + Math.floor((tokens - imageTokens(1, 1)) / perTile);
  return tiles >= 1 ? { rows: tiles, cols: 1 } : undefined;
}

/** The rows of a batch shape. */
export function plannedBatch({ samples, sampleTokens, pictures, labelTokens }: BatchShape): MicroBatch {
  const tokens = samples * sampleTokens;
  const targets = new Int32Array(tokens).fill(IGNORE);
  const positions = new Int32Array(tokens);
  const imageSlices: MicroBatch["imageSlices"] = [];
  for (let sample = 0; sample < samples; sample++) {
    const first = sample * sampleTokens;
    for (let row = 0; row < sampleTokens; row++) positions[first + row] = row;
    // a label is of the next row, so the last row of a sample has none
    targets.fill(1, first + sampleTokens - 1 - labelTokens, first + sampleTokens - 1);
    let start = first;
    pictures.forEach(({ rows, cols }, image) => {
      const end = start + imageTokens(rows, cols);
      imageSlices.push({ start, end, image });
      start = end;
    });
  }
  return {
    inputIds: new Int32Array(tokens),
    targets,
    positions,
    sampleTokens: Array<number>(samples).fill(sampleTokens),
    imageSlices,
    images: pictures.map((grid) => ({ ...grid }) as MicroBatch["images"][number]), // on meta nobody reads pixels
    samples: [],
    labelTokens: samples * labelTokens,
    epoch: 0,
    dataWaitMs: 0,
    position: START,
  };
}
