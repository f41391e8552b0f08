/** A micro-batch of which only the shape is known: what a plan runs the step on. */

import {
  imageTokens,
  layoutOf,
  type PictureLayout,
  pictureTokens,
  type TileGrid,
  tileGrid,
} from "../../data/pictures/image.ts";
import { firstLabel } from "../../data/samples/rows.ts";
import { IGNORE } from "../../data/samples/sample.ts";
import type { MicroBatch } from "../../data/stream/batches.ts";
import { START } from "../../data/stream/packing.ts";
import type { Model } from "../../models/weights.ts";
import { kernelFor } from "../../nn/attention/kernels.ts";
import { type Rows, rowsBetween } from "../../nn/rows.ts";
import { type Policy, ploraOf } from "../../step/policy.ts";

/** The sizes of samples as a user gives them. The plan is of a micro-batch of the longest samples. */
export interface SampleShape {
  /** Tokens of the longest sample. */
  maxLength: number;
  hdNum: number;
  /** The part of a sample that is picture; without it, one picture of the most tokens that hd_num allows. */
  imageShare: number | undefined;
  batchSize: number;
}

/** Samples that are alike, one after the other. */
export interface BatchShape {
  samples: number;
  /** Rows of each sample. */
  sampleTokens: number;
  /** Grids of the pictures of each sample, which come first in it. */
  pictures: readonly PictureLayout[];
  /** Rows of each sample that have a label: its last ones. */
  labelTokens: number;
  /** Rows of each sample from the first with a label on, where that lies before its last ones. */
  askedTokens?: number | undefined;
}

/** The rows of a micro-batch: of one that there is, or of one that needs as much memory as any of many. */
export interface ExactShape {
  /** Rows of each sample. */
  rows: readonly number[];
  imageSlices: MicroBatch["imageSlices"];
  grids: readonly PictureLayout[];
  labelTokens: number;
  /** The first row with a label; what comes before it is not asked for in the last layer. */
  firstLabel: number;
  /**
   * Most of what any of many micro-batches has, if the shape stands for them; undefined for a single
   * micro-batch.
   */
  most?: MostRows | undefined;
}

/**
 * Rows that a branch acts on depend on the model: those of pictures or, once it is folded into the weights,
 * all others.
 */
export interface MostRows {
  /** Samples in a micro-batch. */
  samples: number;
  pictures: RowsInParts;
  others: RowsInParts;
}

export interface RowsInParts {
  rows: number;
  /** Ranges of rows with rows of the other kind between them. */
  parts: number;
}

/** Returns the part of a micro-batch that its memory depends on. */
export function exactShape({
  sampleTokens,
  imageSlices,
  images,
  labelTokens,
  targets,
}: MicroBatch): ExactShape {
  return {
    rows: sampleTokens,
    imageSlices,
    grids: images.map(layoutOf),
    labelTokens,
    firstLabel: firstLabel(targets) ?? 0,
  };
}

/** Rows of each sample of a micro-batch. */
export function rowsOfSamples(shape: BatchShape | ExactShape): readonly number[] {
  return "rows" in shape ? shape.rows : Array<number>(shape.samples).fill(shape.sampleTokens);
}

/**
 * The rows of a micro-batch of alike samples: in each sample its pictures, then text, all of it with labels.
 */
export function batchOf({ maxLength, hdNum, imageShare, batchSize }: SampleShape): BatchShape {
  const largest = largestGrid(hdNum);
  const room = imageShare === undefined ? maxLength - 2 : Math.floor(maxLength * imageShare);
  const whole = imageShare === undefined && pictureTokens([largest]) <= room ? largest : gridOfTokens(room);
  const pictures = whole ? [whole] : [];
  const textTokens = maxLength - pictureTokens(pictures);
  return { samples: batchSize, sampleTokens: maxLength, pictures, labelTokens: Math.max(1, textTokens - 1) };
}

/** Text that a picture comes with where nothing else is said. */
export const DIALOGUE_TOKENS = 256;

/** The grid with the most tokens that hd_num allows: a column, whose every row ends with a separator. */
export function largestGrid(hdNum: number): TileGrid {
  return tileGrid(hdNum, 1);
}

/** A picture of at most so many tokens and within 156 of it; undefined where not even one tile fits. */
export function gridOfTokens(tokens: number): TileGrid | undefined {
  const perTile = imageTokens(2, 1) - imageTokens(1, 1);
  const tiles = 1 + Math.floor((tokens - imageTokens(1, 1)) / perTile);
  return tiles >= 1 ? tileGrid(tiles, 1) : undefined;
}

/** The choices of model and policy that decide how a shape for many micro-batches is laid out. */
interface Layout {
  /** Whether the model has its branch for pictures folded into the weights. */
  folded?: boolean;
  /** Whether flash attention takes the kv heads one by one, of one sample as of several. */
  singleHeads?: boolean;
}

/** Returns how a model and a policy lay out the rows of such a shape. */
export function layoutFor(model: Pick<Model, "config" | "dtype" | "device">, policy: Policy): Layout {
  const { attention, headGroups } = policy;
  const kernel = kernelFor(model, attention === "measured" ? undefined : attention);
  return {
    folded: ploraOf(policy).folded,
    singleHeads: kernel === "flash" && headGroups === model.config.kvHeads,
  };
}

/** Returns the rows of a shape. */
export function plannedBatch(shape: BatchShape | ExactShape, layout: Layout = {}): MicroBatch {
  const { folded = false, singleHeads = false } = layout;
  const rows = singleHeads ? splitRows(shape) : rowsOfSamples(shape);
  const { grids, imageSlices } = "rows" in shape ? shape : alikeSlices(shape);
  const tokens = rows.reduce((sum, count) => sum + count, 0);
  const positions = new Int32Array(tokens);
  rows.reduce((first, count) => {
    for (let row = 0; row < count; row++) positions[first + row] = row;
    return first + count;
  }, 0);
  const most = "rows" in shape ? shape.most : undefined;
  const targets = "rows" in shape ? labelsOf(shape, tokens, folded) : lastLabels(shape);
  return {
    inputIds: new Int32Array(tokens),
    targets,
    positions,
    sampleTokens: [...rows],
    imageSlices,
    ...(most && { branchRows: branchRows(most, folded) }),
    images: grids.map((grid) => ({ ...grid }) as MicroBatch["images"][number]), // on meta nobody reads pixels
    samples: [],
    labelTokens: "rows" in shape ? shape.labelTokens : shape.samples * shape.labelTokens,
    epoch: 0,
    position: START,
  };
}

/** The pictures of samples that are alike. */
function alikeSlices({
  samples,
  sampleTokens,
  pictures,
}: BatchShape): Pick<ExactShape, "grids" | "imageSlices"> {
  const imageSlices: ExactShape["imageSlices"] = [];
  for (let sample = 0; sample < samples; sample++) {
    let start = sample * sampleTokens;
    pictures.forEach(({ tokens }, image) => {
      const end = start + tokens;
      imageSlices.push({ start, end, image });
      start = end;
    });
  }
  return { grids: pictures, imageSlices };
}

/** A label is of the next row, so the last row of a sample has none. */
function lastLabels({ samples, sampleTokens, labelTokens, askedTokens = 0 }: BatchShape): Int32Array {
  const targets = new Int32Array(samples * sampleTokens).fill(IGNORE);
  const isApart = labelTokens > 0 && askedTokens > labelTokens + 1;
  for (let end = sampleTokens; end <= targets.length; end += sampleTokens) {
    targets.fill(1, end - 1 - (isApart ? labelTokens - 1 : labelTokens), end - 1);
    if (isApart) targets[end - askedTokens] = 1;
  }
  return targets;
}

/**
 * Returns the rows of the samples that make flash attention of a single kv head need the most: one long
 * sample, and others of a row each, since it pads each packed sample. With several heads in a call, or in
 * other kernels, one sample of all rows needs more.
 */
function splitRows(shape: BatchShape | ExactShape): readonly number[] {
  const rows = rowsOfSamples(shape);
  const most = "rows" in shape ? shape.most : undefined;
  if (!most || rows.length > 1) return rows;
  const others = Math.min(most.samples, rows[0]!) - 1;
  return [rows[0]! - others, ...Array<number>(others).fill(1)];
}

/** Labels come last, where no pictures are, or first, where all else is that a folded branch acts on. */
function labelsOf(shape: ExactShape, tokens: number, folded: boolean): Int32Array {
  if (!shape.most) return labelsOfText(shape, tokens);
  const { labelTokens, firstLabel } = shape;
  const targets = new Int32Array(tokens).fill(IGNORE);
  const from = folded ? firstLabel + 1 : Math.max(firstLabel + 1, tokens - labelTokens);
  targets.fill(1, firstLabel, firstLabel + 1).fill(1, from, from + labelTokens - 1);
  return targets;
}

/**
 * The branch's rows of a shape that stands for many micro-batches. They come first, so that a tile of the MLP
 * holds as many as it can; one range has all that the others, of one row each, leave to it.
 */
function branchRows({ pictures, others }: MostRows, folded: boolean): Rows[] {
  const { rows, parts } = folded ? others : pictures;
  const rest = rows - Math.max(0, Math.min(parts, rows) - 1);
  const single = Array.from({ length: rows - rest }, (_, at) => ({ start: rest + at, end: rest + at + 1 }));
  return rest > 0 ? [{ start: 0, end: rest }, ...single] : [];
}

/** Ranges of either kind at most, as far as copies of gathered rows depend on it. */
export function mostPartsOf(shape: BatchShape | ExactShape): number | undefined {
  return "rows" in shape && shape.most
    ? Math.max(shape.most.pictures.parts, shape.most.others.parts)
    : undefined;
}

/**
 * How many rows have a label, that they are of text, and which is the first, is all that memory depends on.
 */
function labelsOfText({ imageSlices, labelTokens, firstLabel }: ExactShape, tokens: number): Int32Array {
  const targets = new Int32Array(tokens).fill(IGNORE);
  let left = labelTokens;
  const label = (start: number, end: number): void => {
    const rows = Math.max(0, Math.min(left, end - start));
    targets.fill(1, start, start + rows);
    left -= rows;
  };
  label(firstLabel, firstLabel + 1);
  for (const { start, end } of [...rowsBetween(imageSlices, tokens), ...imageSlices])
    label(Math.max(start, firstLabel + 1), end);
  return targets;
}
