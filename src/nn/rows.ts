/** Ranges of rows of a [tokens, ...] tensor: packed samples, pictures, tiles. */
import type { Tensor } from "../torch/tensor.ts";

/** Rows start <= row < end. */
export interface Rows {
  start: number;
  end: number;
}

/** The parts of ranges inside `tile`, counted from the tile's first row. */
export function clipRows(ranges: readonly Rows[], tile: Rows): Rows[] {
  return ranges
    .map(({ start, end }) => ({
      start: Math.max(start, tile.start) - tile.start,
      end: Math.min(end, tile.end) - tile.start,
    }))
    .filter(({ start, end }) => start < end);
}

/** 0..rows in tiles of tileRows, the last one shorter. */
export function tilesOf(rows: number, tileRows: number): Rows[] {
  return Array.from({ length: Math.ceil(rows / tileRows) }, (_, tile) => ({
    start: tile * tileRows,
    end: Math.min(rows, (tile + 1) * tileRows),
  }));
}

/** A view of rows; x: (T, ...). */
export function rowsOf(x: Tensor, { start, end }: Rows): Tensor {
  return x.narrow(0, start, end - start);
}
