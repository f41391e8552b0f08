/**
 * A picture's tiles shared out among the ranks that share a micro-batch. Each rank encodes some units into
 * room for the whole picture, zero elsewhere; the sum over ranks is the picture, exactly, and each rank
 * copies the rows that it has.
 */
import type { MicroBatch } from "../data/stream/batches.ts";
import { type Deepstack, featuresOf } from "../models/deepstack.ts";
import { clipRows, type Rows, rowCount, rowsOf } from "../nn/rows.ts";
import { zeros } from "../torch/create.ts";
import { keep, scope, type Tensor } from "../torch/tensor.ts";
import type { OwnRows } from "./ownRows.ts";

/** Where pictures go: the decoder's input in the own rows, (T, C), and the features for its first layers. */
export interface PictureRoom {
  hidden: Tensor;
  own: OwnRows;
  deepstack: Deepstack | undefined;
}

/** Room for one picture while it is encoded. */
interface ImageRoom {
  /** (tokens, C) each: image tokens, then the features for each of the first layers. */
  parts: [tokens: Tensor, ...features: Tensor[]];
  /** All tensors of the room, for the caller to free. */
  held: Tensor[];
  /** Brings everything into the own rows once it is encoded. */
  settle(): void;
}

/** Returns room for a picture, slices[at] of the micro-batch's. */
export function roomForImage(
  slices: MicroBatch["imageSlices"],
  at: number,
  { hidden, own, deepstack }: PictureRoom,
): ImageRoom {
  const slice = slices[at]!;
  const ownRows = (rows: Rows): [Tensor, ...Tensor[]] => [
    rowsOf(hidden, rows),
    ...(deepstack ? featuresOf(deepstack, at) : []),
  ];
  if (own.sharers.count === 1) {
    const parts = keep(scope(() => ownRows(slice)));
    return { parts, held: parts, settle: () => {} };
  }
  const { dtype, device } = hidden;
  const layers = deepstack?.values.shape[0] ?? 0;
  const all = keep(zeros([1 + layers, rowCount(slice), hidden.shape[1]!], { dtype, device }));
  const part = (index: number): Tensor => all.select(0, index);
  const parts = keep(scope((): [Tensor, ...Tensor[]] => [part(0), ...countedFrom(1, layers).map(part)]));
  const settle = (): void => {
    own.sharers.sum(all).wait();
    const [mine] = clipRows([slice], own.rows);
    if (!mine) return;
    const start = Math.max(0, own.rows.start - slice.start);
    scope(() => {
      for (const [index, into] of ownRows(mine).entries())
        into.copy_(rowsOf(parts[index]!, { start, end: start + rowCount(mine) }));
    });
  };
  return { parts, held: [all, ...parts], settle };
}

function countedFrom(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}

/**
 * Returns the units of a picture that the rank encodes, perhaps none; undefined: all. Each picture begins
 * with another rank, so that many small ones go round. unitsApart: whether several ranks can share a
 * picture.
 */
export function unitsOf(
  { units }: { units: number },
  image: number,
  { sharers: { rank, count } }: OwnRows,
  unitsApart = false,
): Rows | undefined {
  const share = unitsApart ? Math.ceil(units / count) : units;
  const place = (rank + image) % count;
  const own = { start: Math.min(units, place * share), end: Math.min(units, (place + 1) * share) };
  return rowCount(own) === units ? undefined : own;
}
