/**
 * Dropout that is the same under every memory policy. The mask depends only on the seed, the row of the
 * micro-batch and the column, so recomputation, tiles and head groups see the same mask.
 */
import { empty } from "../torch/create.ts";
import { fused } from "../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import {
  forEachKind,
  forEachPart,
  kindsOf,
  kindsOfTiles,
  type Rows,
  rowCount,
  rowsOf,
  runsOf,
  tilesOf,
} from "./rows.ts";

/** Elements per tile, 16 MiB in bf16: a copy of a tile is small beside the working set. */
const TILE_ELEMENTS = 2 ** 23;

export interface Dropout {
  /** Rounded to a multiple of 1 / 65536. */
  probability: number;
  /** 64 bits, different for each run, micro-batch, layer and module. */
  seed: bigint;
}

/**
 * Rows of the micro-batch that a tensor's rows are: a number is the first of consecutive rows; an array lists
 * them in ascending order.
 */
export type RowPlace = number | Int32Array;

/** Position of a matrix in the tensor that one seed drops; column: its first column there. */
export interface DropoutPlace {
  place: RowPlace;
  column: number;
}

/** Derives the seed of a part: mixSeed(seed, layer, module). */
export function mixSeed(seed: bigint, ...parts: number[]): bigint {
  return parts.reduce((mixed, part) => splitMix(mixed ^ splitMix(BigInt(part) + 1n)), seed);
}

/** SplitMix64's output function. Source: Steele, Lea, Flood, 2014. */
function splitMix(state: bigint): bigint {
  const mask = 0xffff_ffff_ffff_ffffn;
  let z = (state + 0x9e37_79b9_7f4a_7c15n) & mask;
  z = ((z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n) & mask;
  z = ((z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn) & mask;
  return z ^ (z >> 31n);
}

/** Returns a copy of x times its mask / (1 - probability). x: (t, columns), with any row stride. */
export function dropped(x: Tensor, dropout: Dropout, at: DropoutPlace): Tensor {
  const out = empty(x.shape, { dtype: x.dtype, device: x.device });
  forEachRun(x, at.place, (rows, row) => {
    fused.dropped([rowsOf(out, rows), rowsOf(x, rows)], { ...dropout, row, column: at.column });
  });
  return out;
}

/** Adds x times its mask / (1 - probability) to `into`. Both (t, columns), with any row stride. */
export function addDropped_(into: Tensor, x: Tensor, dropout: Dropout, at: DropoutPlace): void {
  forEachRun(x, at.place, (rows, row) => {
    fused.addDropped([rowsOf(into, rows), rowsOf(x, rows)], { ...dropout, row, column: at.column });
  });
}

/**
 * Calls body for tiles of x's rows, each in a scope of its own; for all rows at once if nothing is dropped.
 * x: (T, columns).
 */
export function forEachDropoutTile(
  x: Tensor,
  dropout: Dropout | undefined,
  place: RowPlace,
  body: (rows: Rows, place: RowPlace) => void,
): void {
  const [count = 0, columns = 0] = x.shape;
  const tileRows = dropout ? Math.max(1, Math.floor(TILE_ELEMENTS / columns)) : Math.max(1, count);
  const placeOf = ({ start, end }: Rows): RowPlace =>
    typeof place === "number" ? place + start : place.subarray(start, end);
  const kinds =
    typeof place === "number"
      ? kindsOfTiles(count, tileRows)
      : kindsOf(tilesOf(count, tileRows), ({ start, end }) =>
          runsOf(place.subarray(start, end)).map(rowCount).join(" "),
        );
  forEachKind(kinds, (rows) => {
    scope(() => body(rows, placeOf(rows)));
  });
}

/**
 * Calls body for each run of x's rows that are consecutive in the micro-batch, with the run's first row
 * there.
 */
function forEachRun(x: Tensor, place: RowPlace, body: (rows: Rows, row: number) => void): void {
  const runs = typeof place === "number" ? [{ start: 0, end: x.shape[0]! }] : runsOf(place);
  forEachPart(runs, rowCount, (rows) => {
    scope(() => body(rows, typeof place === "number" ? place : place[rows.start]!));
  });
}
