/**
 * Rows of samples by kind: all that the memory of a micro-batch depends on, and the most of each kind that a
 * micro-batch of a length can have. The vision tower's memory depends on the units of a single picture, the
 * rest on rows.
 */
import { layoutOf, type PictureLayout } from "../../data/pictures/form.ts";
import type { EncodedSample } from "../../data/samples/dialogue.ts";
import { IGNORE, IMAGE_SLOT } from "../../data/samples/sample.ts";
import { type Packing, WINDOW_DRAWS } from "../../data/stream/packing.ts";
import type { ExactShape, RowsInParts } from "../../plan/dryRun/batchShapes.ts";

/** Rows by kind in a micro-batch of one sample or several. */
export interface RowCounts {
  samples: number;
  tokens: number;
  /** Rows with a label. */
  labels: number;
  /** Rows from the first with a label on. */
  asked: number;
  /** Rows of pictures among them. */
  askedPictures: number;
  pictures: RowsInParts;
  /** Rows that are not of pictures. */
  others: RowsInParts;
  /** The picture of the most units. */
  largest: PictureLayout | undefined;
}

/** Counts the rows of a sample, whose pictures have these grids. */
export function rowCountsOf({
  inputIds,
  labels,
  grids,
}: Pick<EncodedSample, "inputIds" | "labels"> & { grids: readonly PictureLayout[] }): RowCounts {
  const [pictures, others] = [
    { rows: 0, parts: 0 },
    { rows: 0, parts: 0 },
  ];
  let largest: PictureLayout | undefined;
  let [labelRows, beforeFirst, picturesBefore] = [0, 0, 0];
  for (let at = 0; at < inputIds.length; at++) {
    if (labels[at] !== IGNORE && at > 0 && labelRows++ === 0) {
      beforeFirst = pictures.rows + others.rows - 1; // the row before predicts it
      picturesBefore = pictures.rows;
    }
    const isPicture = inputIds[at] === IMAGE_SLOT;
    if (!isPicture) {
      others.rows++;
      if (at === 0 || inputIds[at - 1] === IMAGE_SLOT) others.parts++;
      continue;
    }
    const grid = grids[pictures.parts++]!;
    pictures.rows += grid.tokens;
    if (unitsOf(grid) > unitsOf(largest)) largest = layoutOf(grid);
  }
  const tokens = pictures.rows + others.rows;
  const hasLabels = labelRows > 0;
  return {
    ...{ samples: 1, tokens, labels: labelRows, pictures, others, largest },
    asked: hasLabels ? tokens - beforeFirst : 1,
    askedPictures: hasLabels ? pictures.rows - picturesBefore : 0,
  };
}

/**
 * Returns the most of each kind of rows in a micro-batch of up to so many tokens. counts: of all samples, in
 * the order of their tokens.
 */
export function mostOfBatches(
  counts: readonly RowCounts[],
  packing: Packing,
  tokens: number,
): Omit<RowCounts, "tokens"> {
  const samples = counts.slice(0, counts.findLastIndex((sample) => sample.tokens <= tokens) + 1);
  if (samples.length === 0) return ofText(tokens);
  const together = packing.by === "samples" ? packing.samples : WINDOW_DRAWS;
  const most = (rowsOf: (sample: RowCounts) => number): number => {
    const share = mostOf(samples, (sample) => rowsOf(sample) / sample.tokens);
    return Math.min(tokens, Math.ceil(share * tokens), sumOfLargest(samples.map(rowsOf), together));
  };
  const pictures = {
    rows: most((sample) => sample.pictures.rows),
    parts: most((sample) => sample.pictures.parts),
  };
  return {
    samples: Math.min(together, tokens),
    labels: most((sample) => sample.labels),
    asked:
      together === 1
        ? mostOf(samples, ({ asked }) => asked)
        : tokens + mostOf(samples, (sample) => sample.asked - sample.tokens), // each can come first
    askedPictures: together === 1 ? mostOf(samples, (sample) => sample.askedPictures) : pictures.rows,
    pictures,
    others: { rows: most((sample) => sample.others.rows), parts: most((sample) => sample.others.parts) },
    largest: samples.reduce<PictureLayout | undefined>(
      (best, { largest }) => (unitsOf(largest) > unitsOf(best) ? largest : best),
      undefined,
    ),
  };
}

/** Returns the most of each kind of rows of either. */
export function mostOfBoth(
  one: Omit<RowCounts, "tokens">,
  other: Omit<RowCounts, "tokens">,
): Omit<RowCounts, "tokens"> {
  const most = (key: "pictures" | "others"): RowsInParts => ({
    rows: Math.max(one[key].rows, other[key].rows),
    parts: Math.max(one[key].parts, other[key].parts),
  });
  return {
    samples: Math.max(one.samples, other.samples),
    labels: Math.max(one.labels, other.labels),
    asked: Math.max(one.asked, other.asked),
    askedPictures: Math.max(one.askedPictures, other.askedPictures),
    ...{ pictures: most("pictures"), others: most("others") },
    largest: unitsOf(other.largest) > unitsOf(one.largest) ? other.largest : one.largest,
  };
}

/** Returns a micro-batch of so many tokens with so many rows of each kind. */
export function shapeOfMost(
  { samples, labels, asked, askedPictures, pictures, others, largest }: Omit<RowCounts, "tokens">,
  tokens: number,
): ExactShape {
  // Rows of pictures come first in a plan, so its first label is early enough to have as many after it.
  const withPictures = askedPictures > 0 ? tokens - pictures.rows + askedPictures : 0;
  const rowsOfLargest = largest?.tokens ?? 0;
  const count = largest ? Math.max(1, Math.floor(pictures.rows / rowsOfLargest)) : 0;
  return {
    rows: [tokens],
    grids: largest ? [largest] : [],
    imageSlices: Array.from({ length: count }, (_, at) => ({
      ...{ start: at * rowsOfLargest, end: (at + 1) * rowsOfLargest, image: 0 },
    })),
    labelTokens: Math.max(1, Math.min(labels, tokens - 1)),
    firstLabel: Math.max(0, tokens - Math.max(asked, withPictures)),
    most: { samples, pictures, others },
  };
}

function ofText(tokens: number): Omit<RowCounts, "tokens"> {
  return {
    ...{ samples: 1, labels: tokens - 1, asked: tokens, askedPictures: 0, largest: undefined },
    ...{ pictures: { rows: 0, parts: 0 }, others: { rows: tokens, parts: 1 } },
  };
}

function unitsOf(grid: PictureLayout | undefined): number {
  return grid?.units ?? 0;
}

function mostOf<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((most, item) => Math.max(most, of(item)), Number.NEGATIVE_INFINITY);
}

/**
 * Sums so many of the largest numbers; the largest stands in for those that are missing, since a sample may
 * come again in the next epoch.
 */
function sumOfLargest(numbers: readonly number[], count: number): number {
  if (count === 1) return mostOf(numbers, (number) => number);
  const sorted = Float64Array.from(numbers).sort();
  const missing = Math.max(0, count - sorted.length);
  return sorted.slice(-count).reduce((sum, number) => sum + number, 0) + missing * sorted.at(-1)!;
}
