/**
 * A picture's tiles shared out among the ranks that share a micro-batch. Each rank encodes some units into
 * room for the whole picture, zero elsewhere; the sum over ranks is the picture, exactly, and each rank
 * copies the rows that it has.
 */
import type { MicroBatch } from "../data/stream/batches.ts";
import { clipRows, type Rows, rowCount, rowsOf } from "../nn/rows.ts";
import { zeros } from "../torch/create.ts";
import { keep, scope, type Tensor } from "../torch/tensor.ts";
import type { OwnRows } from "./ownRows.ts";

/** Room for a picture's image tokens, (tokens, C), while they are encoded. */
interface ImageRoom {
  rows: Tensor;
  isShared: boolean;
  /** Brings the image tokens into their rows once they are encoded. */
  settle(): void;
}

/** Returns room for a picture. hidden: the decoder's input in the own rows, (T, C). */
export function roomForImage(
  hidden: Tensor,
  slice: MicroBatch["imageSlices"][number],
  own: OwnRows,
): ImageRoom {
  if (own.sharers.count === 1)
    return { rows: keep(rowsOf(hidden, slice)), isShared: false, settle: () => {} };
  const { dtype, device } = hidden;
  const rows = keep(zeros([rowCount(slice), hidden.shape[1]!], { dtype, device }));
  const settle = (): void => {
    own.sharers.sum(rows).wait();
    const [mine] = clipRows([slice], own.rows);
    if (!mine) return;
    const from = Math.max(0, own.rows.start - slice.start);
    scope(() => {
      rowsOf(hidden, mine).copy_(rowsOf(rows, { start: from, end: from + rowCount(mine) }));
    });
  };
  return { rows, isShared: true, settle };
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
