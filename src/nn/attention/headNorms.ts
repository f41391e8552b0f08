/**
 * RMS norms of queries and keys over a head's dims, before they are rotated. The backward needs the values
 * before the norm, so these are copied; everything else happens in place. The norms are frozen.
 */
import { zeros } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { addRmsNormGradient_, type RmsNorm, rmsNorm } from "../norm.ts";
import { forEachTileOf, rowsOf } from "../rows.ts";

/** weight: (D) each. */
export interface HeadNorms {
  query: RmsNorm;
  key: RmsNorm;
}

/** Heads of one kind as a view, (T, G, heads, D), and their norm. */
export interface NormedHeads {
  heads: Tensor;
  norm: RmsNorm;
}

/** Numbers that are normalised at a time: 4 MiB in half precision. */
const TILE_NUMBERS = 2 ** 21;

/** Returns the queries and keys of packed heads, (T, G, Q+2, D). */
export function normedOfPacked(packed: Tensor, { query, key }: HeadNorms): NormedHeads[] {
  const Q = packed.shape[2]! - 2;
  return [
    { heads: packed.narrow(2, 0, Q), norm: query },
    { heads: packed.narrow(2, Q, 1), norm: key },
  ];
}

/** Normalises queries and keys of packed heads in place, for a pass without backward: (T, G, Q+2, D). */
export function normalizePacked_(packed: Tensor, norms: HeadNorms | undefined): void {
  if (norms) scope(() => normedOfPacked(packed, norms).forEach(normalizeHeads_));
}

/** Normalises heads in place. */
export function normalizeHeads_({ heads, norm }: NormedHeads): void {
  forEachRows(heads, (rows) => rows.copy_(rmsNorm(flat(rows), norm).view(rows.shape)));
}

/**
 * Turns the gradient of the normalised heads, in place, into that of the heads before the norm. raw: these,
 * contiguous.
 */
export function normGradients_({ heads, norm }: NormedHeads, raw: Tensor): void {
  forEachRows(heads, (rows, range) => {
    const given = flat(rows); // a copy, unless the view is contiguous
    const gradient = zeros(given.shape, given);
    addRmsNormGradient_(gradient, given, flat(rowsOf(raw, range)), norm);
    rows.copy_(gradient.view(rows.shape));
  });
}

/** (t, G, heads, D) -> (t * G * heads, D), contiguous */
function flat(rows: Tensor): Tensor {
  return rows.contiguous().view([-1, rows.shape[3]!]);
}

function forEachRows(
  heads: Tensor,
  body: (rows: Tensor, range: { start: number; end: number }) => void,
): void {
  const [T, G, count, D] = heads.shape as [number, number, number, number];
  const tile = Math.max(1, Math.floor(TILE_NUMBERS / (G * count * D)));
  forEachTileOf(T, tile, (range) => scope(() => body(rowsOf(heads, range), range)));
}
