/** Ranges of rows of a [tokens, ...] tensor: packed samples, pictures, tiles. */
import type { Tensor } from "../torch/tensor.ts";
import { isAbridging, repeated } from "../torch/trace.ts";

/** Rows start <= row < end. */
export interface Rows {
  start: number;
  end: number;
}

/** Returns the parts of the ranges inside `tile`, counted from the tile's first row. */
export function clipRows(ranges: readonly Rows[], tile: Rows): Rows[] {
  return ranges
    .map(({ start, end }) => ({
      start: Math.max(start, tile.start) - tile.start,
      end: Math.min(end, tile.end) - tile.start,
    }))
    .filter(({ start, end }) => start < end);
}

/** Returns the rows of 0..rows that are in none of the ranges. The ranges ascend. */
export function rowsBetween(ranges: readonly Rows[], rows: number): Rows[] {
  const starts = [0, ...ranges.map(({ end }) => end)];
  const ends = [...ranges.map(({ start }) => start), rows];
  return starts.map((start, gap) => ({ start, end: ends[gap]! })).filter(({ start, end }) => start < end);
}

/** Returns the index range of each run of consecutive numbers. numbers: ascending. */
export function runsOf(numbers: Int32Array): Rows[] {
  const runs: Rows[] = [];
  for (let start = 0; start < numbers.length; ) {
    let end = start + 1;
    while (end < numbers.length && numbers[end] === numbers[end - 1]! + 1) end++;
    runs.push({ start, end });
    start = end;
  }
  return runs;
}

/** Splits 0..rows into tiles of tileRows; the last tile may be shorter. */
export function tilesOf(rows: number, tileRows: number): Rows[] {
  return Array.from({ length: Math.ceil(rows / tileRows) }, (_, tile) => ({
    start: tile * tileRows,
    end: Math.min(rows, (tile + 1) * tileRows),
  }));
}

/** Returns the range `by` rows further on. */
export function shifted({ start, end }: Rows, by: number): Rows {
  return { start: start + by, end: end + by };
}

/** Returns a view of rows; x: (T, ...). */
export function rowsOf(x: Tensor, { start, end }: Rows): Tensor {
  return x.narrow(0, start, end - start);
}

/** Returns a view of columns; x: (T, columns). */
export function columnsOf(x: Tensor, { start, end }: Rows): Tensor {
  return x.narrow(1, start, end - start);
}

/** A part of a loop, and the number of similar parts that it stands for. */
export interface Kind<P> {
  part: P;
  index: number;
  times: number;
}

/**
 * Returns the parts that a loop must run: all of them, once each. In an abridged plan, only the first part of
 * each kind runs and stands for the others. So all parts of a kind must do the same work and leave nothing
 * behind.
 */
export function kindsOf<P>(parts: readonly P[], kindOf: (part: P) => string | number): Kind<P>[] {
  if (!isAbridging()) return parts.map((part, index) => ({ part, index, times: 1 }));
  const found = new Map<string | number, Kind<P>>();
  parts.forEach((part, index) => {
    const kind = kindOf(part);
    const known = found.get(kind);
    if (known) known.times++;
    else found.set(kind, { part, index, times: 1 });
  });
  return [...found.values()];
}

/**
 * Returns the tiles of 0..rows that a loop must run. An abridged plan needs at most two kinds, and so never
 * lists millions of rows.
 */
export function kindsOfTiles(rows: number, tileRows: number): Kind<Rows>[] {
  if (!isAbridging()) return kindsOf(tilesOf(rows, tileRows), rowCount);
  const whole = Math.floor(rows / tileRows);
  const kinds = [
    { part: { start: 0, end: tileRows }, index: 0, times: whole },
    { part: { start: whole * tileRows, end: rows }, index: whole, times: 1 },
  ];
  return kinds.filter(({ part, times }) => rowCount(part) * times > 0);
}

/** Calls body for every tile of 0..rows that a loop must run. */
export function forEachTileOf(
  rows: number,
  tileRows: number,
  body: (tile: Rows, index: number) => void,
): void {
  forEachKind(kindsOfTiles(rows, tileRows), body);
}

/** Calls body for every part that a loop must run. */
export function forEachPart<P>(
  parts: readonly P[],
  kindOf: (part: P) => string | number,
  body: (part: P, index: number) => void,
): void {
  forEachKind(kindsOf(parts, kindOf), body);
}

/** Calls body for the parts that kindsOf chose. */
export function forEachKind<P>(kinds: readonly Kind<P>[], body: (part: P, index: number) => void): void {
  for (const { part, index, times } of kinds) repeated(times, () => body(part, index));
}

/** Returns the number of rows; as a kind, it distinguishes ranges of the same tensors. */
export function rowCount({ start, end }: Rows): number {
  return end - start;
}

/**
 * Rows of a (T, C) tensor: views if it is on the device, else copies on the device that the open scope frees.
 */
export interface RowSource {
  readonly tokens: number;
  rows(rows: Rows): Tensor;
}

/** Makes a RowSource of a tensor that is on the device. */
export function rowSource(x: Tensor): RowSource {
  return { tokens: x.shape[0]!, rows: (rows) => rowsOf(x, rows) };
}
