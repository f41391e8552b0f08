/**
 * The rows of a micro-batch that one rank computes. Ranks that share a micro-batch have as many consecutive
 * rows each: the last sample is padded with text that has no label, which no other row sees, and whose
 * gradient is zero. A process alone has all rows as they are.
 */
import type { MicroBatch } from "../data/stream/batches.ts";
import { UserError } from "../errors.ts";
import { positionsOf } from "../models/families.ts";
import type { ModelConfig } from "../models/family.ts";
import type { Positions } from "../nn/attention/rope.ts";
import { type Labels, labelsOf } from "../nn/loss.ts";
import { clipRows, type Rows } from "../nn/rows.ts";
import { zeros } from "../torch/create.ts";
import { ALONE, type Peers } from "../torch/peers/peers.ts";
import { scope, type Tensor } from "../torch/tensor.ts";

export interface OwnRows {
  /** The ranks that share the micro-batch. */
  sharers: Peers;
  /** The rank's rows of the padded micro-batch. */
  rows: Rows;
  /** Rows of the padded micro-batch. */
  tokens: number;
  /** Rows of each sample, with the padding in the last one. */
  samples: readonly Rows[];
  /** Token ids of the rank's rows. */
  inputIds: Int32Array;
  /** Labels of the whole micro-batch. */
  labels: Labels;
  /** Labels of the rank's rows; rows are counted from its first row. */
  ownLabels: Labels;
  /** The rank's labels among all of them. */
  labelRange: Rows;
}

/** Returns the rows of one of the ranks that share a micro-batch. */
export function ownRowsOf(batch: MicroBatch, sharers: Peers = ALONE): OwnRows {
  const tokens = batch.inputIds.length;
  const count = Math.ceil(tokens / sharers.count);
  const rows = { start: sharers.rank * count, end: (sharers.rank + 1) * count };
  const padded = count * sharers.count;
  const labels = labelsOf(batch.targets);
  const inputIds = new Int32Array(count);
  inputIds.set(batch.inputIds.subarray(rows.start, rows.end));
  const labelRange = { start: firstFrom(labels.rows, rows.start), end: firstFrom(labels.rows, rows.end) };
  return {
    ...{ sharers, rows, tokens: padded, inputIds, labels, labelRange },
    samples: sampleRows(batch).map(({ start, end }) => ({ start, end: end === tokens ? padded : end })),
    ownLabels: {
      rows: labels.rows.slice(labelRange.start, labelRange.end).map((row) => row - rows.start),
      targets: labels.targets.slice(labelRange.start, labelRange.end),
    },
  };
}

/** Returns how many of the numbers are smaller than one. numbers: ascending. */
function firstFrom(numbers: Int32Array, least: number): number {
  const index = numbers.findIndex((number) => number >= least);
  return index < 0 ? numbers.length : index;
}

/** Returns the rows of the samples packed in a micro-batch. */
export function sampleRows({ sampleTokens }: MicroBatch): Rows[] {
  let end = 0;
  return sampleTokens.map((tokens) => {
    end += tokens;
    return { start: end - tokens, end };
  });
}

/** Returns ranges of rows of the micro-batch as far as the rank has them, counted from its first row. */
export function clipToOwn(ranges: readonly Rows[], { rows, sharers }: OwnRows): readonly Rows[] {
  return sharers.count === 1 ? ranges : clipRows(ranges, rows);
}

/** Returns the positions of the padded micro-batch's rows. Those of the padding are 0. */
export function paddedPositions(config: ModelConfig, batch: MicroBatch, { tokens }: OwnRows): Positions {
  const { axes, values } = positionsOf(config, batch);
  const rows = values.length / axes;
  if (rows === tokens) return { axes, values };
  const padded = new Int32Array(axes * tokens);
  for (let axis = 0; axis < axes; axis++)
    padded.set(values.subarray(axis * rows, (axis + 1) * rows), axis * tokens);
  return { axes, values: padded };
}

/** Returns the losses of all ranks' labels, (M), for those of the own labels. */
export function lossesOfAll(own: Tensor, { sharers, labels, labelRange }: OwnRows): Tensor {
  if (sharers.count === 1) return own;
  return scope(() => {
    const { dtype, device } = own;
    const all = zeros([labels.rows.length], { dtype, device });
    all.narrow(0, labelRange.start, labelRange.end - labelRange.start).copy_(own);
    sharers.sum(all).wait();
    return all;
  });
}

/** Throws UserError if ranks cannot share the rows of a model's samples. */
export function refuseUnevenHeads({ kvHeads }: Pick<ModelConfig, "kvHeads">, sequenceParallel: number): void {
  if (kvHeads % sequenceParallel === 0) return;
  const divisors = Array.from({ length: kvHeads }, (_, at) => at + 1).filter((each) => kvHeads % each === 0);
  throw new UserError(
    `sequence_parallel ${sequenceParallel} does not divide the model's ${kvHeads} key/value heads, which the ranks share.`,
    { fix: `Use one of ${divisors.join(", ")}.` },
  );
}
