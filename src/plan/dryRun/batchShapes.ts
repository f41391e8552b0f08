/** Micro-batches of which only the shape is known. A plan runs the step on them. */

import { layoutOf, type PictureForm, type PictureLayout, pictureTokens } from "../../data/pictures/form.ts";
import { countLabels, firstLabel } from "../../data/samples/rows.ts";
import { IGNORE } from "../../data/samples/sample.ts";
import type { MicroBatch } from "../../data/stream/batches.ts";
import { START } from "../../data/stream/packing.ts";
import type { Model } from "../../models/weights.ts";
import { kernelFor } from "../../nn/attention/kernels.ts";
import { type Rows, rowsBetween } from "../../nn/rows.ts";
import { type Policy, ploraOf } from "../../step/policy.ts";
import { ALONE, type Peers } from "../../torch/peers/peers.ts";

/** The sizes of samples as a user gives them. The plan assumes a micro-batch of the longest samples. */
export interface SampleShape {
  /** Tokens of the longest sample. */
  maxLength: number;
  /** Limit of the tokens of a picture, as the form of the model's pictures takes it. */
  pictureLimit: number;
  /**
   * Share of a sample's tokens that are picture. Undefined: one picture, with the most tokens that the limit
   * allows.
   */
  imageShare: number | undefined;
  batchSize: number;
}

/** Alike samples, one after the other. */
export interface BatchShape {
  samples: number;
  /** Rows of each sample. */
  sampleTokens: number;
  /** Layouts of the pictures of each sample. Pictures come first in a sample. */
  pictures: readonly PictureLayout[];
  /** Rows of each sample that have a label: the last ones. */
  labelTokens: number;
  /** Rows of each sample from its first label on, if that label comes before the last rows. */
  askedTokens?: number | undefined;
}

/** The rows of an existing micro-batch, or of one that needs as much memory as any of many. */
export interface ExactShape {
  /** Rows of each sample. */
  rows: readonly number[];
  imageSlices: MicroBatch["imageSlices"];
  grids: readonly PictureLayout[];
  labelTokens: number;
  /** The first row with a label. The last layer does not compute the rows before it. */
  firstLabel: number;
  /** Rows with a label, where ranks share the rows of a known micro-batch: it matters who has them. */
  labels?: readonly Rows[] | undefined;
  /** Maximums over many micro-batches, if the shape stands for them; undefined for a single micro-batch. */
  most?: MostRows | undefined;
}

/**
 * Rows by kind. It depends on the model which kind a branch acts on: the rows of pictures or, once PLoRA is
 * folded into the weights, all others.
 */
export interface MostRows {
  /** Samples in a micro-batch. */
  samples: number;
  pictures: RowsInParts;
  others: RowsInParts;
}

export interface RowsInParts {
  rows: number;
  /** Ranges of rows, separated by rows of the other kind. */
  parts: number;
}

/** Returns the part of a micro-batch that its memory depends on. sharers: ranks that share its rows. */
export function exactShape(
  { sampleTokens, imageSlices, images, labelTokens, targets }: MicroBatch,
  sharers = 1,
): ExactShape {
  return {
    rows: sampleTokens,
    imageSlices,
    grids: images.map(layoutOf),
    labelTokens,
    firstLabel: firstLabel(targets) ?? 0,
    ...(sharers > 1 && { labels: labelledRows(targets) }),
  };
}

function labelledRows(targets: Int32Array): Rows[] {
  const found: Rows[] = [];
  for (let start = 0; start < targets.length; start++) {
    if (targets[start] === IGNORE) continue;
    let end = start + 1;
    while (end < targets.length && targets[end] !== IGNORE) end++;
    found.push({ start, end });
    start = end;
  }
  return found;
}

/** Returns the rows of each sample of a micro-batch. */
export function rowsOfSamples(shape: BatchShape | ExactShape): readonly number[] {
  return "rows" in shape ? shape.rows : Array<number>(shape.samples).fill(shape.sampleTokens);
}

/**
 * Returns a micro-batch of alike samples: first the pictures of a sample, then text, with a label for every
 * text token.
 */
export function batchOf(
  { maxLength, pictureLimit, imageShare, batchSize }: SampleShape,
  form: PictureForm,
): BatchShape {
  const room = imageShare === undefined ? maxLength - 2 : Math.floor(maxLength * imageShare);
  const largest = imageShare === undefined ? form.largest(pictureLimit) : undefined;
  const whole = largest && largest.tokens <= room ? largest : form.within(room);
  const pictures = whole ? [whole] : [];
  const textTokens = maxLength - pictureTokens(pictures);
  return { samples: batchSize, sampleTokens: maxLength, pictures, labelTokens: Math.max(1, textTokens - 1) };
}

/** Text tokens beside a picture, if nothing else is given. */
export const DIALOGUE_TOKENS = 256;

/** The choices of model and policy that decide how to lay out a shape for many micro-batches. */
interface Layout {
  /** Whether the model's branch for pictures is folded into the weights. */
  folded?: boolean;
  /** Whether flash attention computes kv heads one by one, also for a single sample. */
  singleHeads?: boolean;
  /** Ranks that share the rows, and the one that is planned. */
  sharers?: Sharers;
}

type Sharers = Pick<Peers, "rank" | "count">;

/** Returns how a model and a policy lay out the rows of such a shape. */
export function layoutFor(
  model: Pick<Model, "config" | "dtype" | "device">,
  policy: Policy,
  sharers: Sharers = ALONE,
): Layout {
  const { attention, headGroups } = policy;
  const kernel = kernelFor(model, attention === "measured" ? undefined : attention);
  return {
    folded: ploraOf(policy).folded,
    singleHeads: kernel === "flash" && headGroups * sharers.count === model.config.kvHeads,
    sharers,
  };
}

/** Returns the rows of a shape. */
export function plannedBatch(shape: BatchShape | ExactShape, layout: Layout = {}): MicroBatch {
  const { folded = false, singleHeads = false, sharers = ALONE } = layout;
  const rows = singleHeads ? splitRows(shape) : rowsOfSamples(shape);
  const { grids, imageSlices } = "rows" in shape ? shape : alikeSlices(shape);
  const tokens = rows.reduce((sum, count) => sum + count, 0);
  const most = "rows" in shape ? shape.most : undefined;
  const branch = most && branchRows(most, folded);
  const targets = "rows" in shape ? labelsOf(shape, tokens, folded) : lastLabels(shape);
  const isKnown = sharers.count === 1 || ("rows" in shape && shape.labels !== undefined);
  const text = branch && !folded ? rowsBetween(branch, tokens) : (branch ?? rowsBetween(imageSlices, tokens));
  return {
    inputIds: new Int32Array(tokens),
    targets: isKnown ? targets : labelsOfRank(countLabels(targets), tokens, text, sharers),
    sampleTokens: [...rows],
    imageSlices,
    ...(branch && { branchRows: branch }),
    images: grids.map((grid) => ({ ...grid })), // on meta nobody reads pixels
    samples: [],
    labelTokens: "rows" in shape ? shape.labelTokens : shape.samples * shape.labelTokens,
    epoch: 0,
    position: START,
  };
}

/** Returns the picture rows of alike samples. */
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

/**
 * Returns targets with labels in the last rows of each sample. A label belongs to the next row, so the last
 * row of a sample has none.
 */
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

/**
 * Puts labels on text rows. The branch's rows come first: pictures, so labels go last. For a folded branch
 * they are text, so labels go first.
 */
function labelsOf(shape: ExactShape, tokens: number, folded: boolean): Int32Array {
  if (shape.labels) return labelsIn(shape.labels, tokens);
  if (!shape.most) return labelsOfText(shape, tokens);
  const { labelTokens, firstLabel } = shape;
  const targets = new Int32Array(tokens).fill(IGNORE);
  const from = folded ? firstLabel + 1 : Math.max(firstLabel + 1, tokens - labelTokens);
  targets.fill(1, firstLabel, firstLabel + 1).fill(1, from, from + labelTokens - 1);
  return targets;
}

function labelsIn(labels: readonly Rows[], tokens: number): Int32Array {
  const targets = new Int32Array(tokens).fill(IGNORE);
  for (const { start, end } of labels) targets.fill(1, start, end);
  return targets;
}

/**
 * Returns the rows of the branch in a shape that stands for many micro-batches. The first range comes first
 * in the sequence, so that a tile of the MLP holds as many of its rows as possible. All other ranges have one
 * row each.
 */
function branchRows({ pictures, others }: MostRows, folded: boolean): Rows[] {
  const { rows, parts } = folded ? others : pictures;
  const rest = rows - Math.max(0, Math.min(parts, rows) - 1);
  const single = Array.from({ length: rows - rest }, (_, at) => ({ start: rest + at, end: rest + at + 1 }));
  return rest > 0 ? [{ start: 0, end: rest }, ...single] : [];
}

/**
 * Returns targets with as many labels in the rows of one rank as it can have, on text first. Which rank has a
 * micro-batch's labels is not known beforehand, so each is planned with the most.
 */
function labelsOfRank(
  labels: number,
  tokens: number,
  text: readonly Rows[],
  { rank, count }: Sharers,
): Int32Array {
  const rows = Math.ceil(tokens / count);
  const own = { start: Math.min(tokens, rank * rows), end: Math.min(tokens, (rank + 1) * rows) };
  const targets = new Int32Array(tokens).fill(IGNORE);
  let left = labels;
  const label = (start: number, end: number): void => {
    for (let row = start; row < end && left > 0; row++) {
      if (targets[row] !== IGNORE) continue;
      targets[row] = 1;
      left--;
    }
  };
  for (const { start, end } of text) label(Math.max(start, own.start), Math.min(end, own.end));
  label(own.start, own.end);
  label(0, tokens);
  return targets;
}

/** Returns the largest number of ranges of either kind. Copies of gathered rows depend on this number. */
export function mostPartsOf(shape: BatchShape | ExactShape): number | undefined {
  return "rows" in shape && shape.most
    ? Math.max(shape.most.pictures.parts, shape.most.others.parts)
    : undefined;
}

/**
 * Labels text rows before picture rows. Memory depends only on the number of labels, on their being text, and
 * on the first labelled row.
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
