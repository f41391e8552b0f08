/**
 * Rows of a micro-batch in tiles: which of them PLoRA's branch acts on, and which tiles are alike to a plan.
 */
import type { Linear, RowInfo } from "../nn/linear.ts";
import { mergedWherePays, type PloraWay } from "../nn/plora.ts";
import {
  clipRows,
  forEachKind,
  type Kind,
  kindsOf,
  type Rows,
  rowCount,
  rowsBetween,
  runsOf,
  tilesOf,
} from "../nn/rows.ts";
import { scope } from "../torch/tensor.ts";
import { isAbridging } from "../torch/trace.ts";
import type { Model } from "./weights.ts";

/** Rows of the micro-batch as products go through them: all of them, or some. */
export interface MlpRows {
  /** Those that PLoRA's branch acts on, ascending. */
  ploraRows: readonly Rows[];
  /** Whether the branch may be merged into copies of the weights that those rows are multiplied with. */
  plora: PloraWay;
  /** Rows that the MLP takes at a time, and attention where it makes its input again. */
  mlpTileTokens: number;
  /** Which rows of the micro-batch they are, where they are some here and there; they ascend. */
  picked?: Int32Array;
  /** Where they are those from one row of the micro-batch on, that row. */
  first?: number;
}

/**
 * Returns the rows that PLoRA's branch acts on: those of pictures or, if it is folded into the weights, all
 * others.
 */
export function ploraRowsOf(
  { folded }: Pick<Model, "folded">,
  imageRows: readonly Rows[],
  tokens: number,
): readonly Rows[] {
  return folded ? rowsBetween(imageRows, tokens) : imageRows;
}

/** The rows from one of them on, of so many. */
export function lastRows(
  { ploraRows, mlpTileTokens, plora }: MlpRows,
  first: number,
  tokens: number,
): MlpRows {
  return { ploraRows: clipRows(ploraRows, { start: first, end: tokens }), mlpTileTokens, plora, first };
}

/**
 * Returns some of the rows as an MLP sees them. chosen: (n) ascending, counted from the first of the rows.
 */
export function pickRows(
  { ploraRows, mlpTileTokens, plora, first = 0 }: MlpRows,
  chosen: Int32Array,
): MlpRows {
  const before = (row: number): number => {
    let [low, high] = [0, chosen.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (chosen[middle]! < row) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const left = ploraRows.map(({ start, end }) => ({ start: before(start), end: before(end) }));
  const picked = first === 0 ? chosen : chosen.map((row) => first + row);
  return { ploraRows: joined(left.filter(({ start, end }) => start < end)), mlpTileTokens, plora, picked };
}

/** Joins ranges that follow on one another. */
function joined(ranges: readonly Rows[]): Rows[] {
  const wider: Rows[] = [];
  for (const { start, end } of ranges) {
    const last = wider.at(-1);
    if (last?.end === start) last.end = end;
    else wider.push({ start, end });
  }
  return wider;
}

/** Where a tile lies, and its rows that PLoRA's branch acts on. */
export function tileInfo({ ploraRows, picked, first = 0 }: MlpRows, tile: Rows): RowInfo {
  const place = picked ? picked.subarray(tile.start, tile.end) : first + tile.start;
  return { place, ploraRows: clipRows(ploraRows, tile) };
}

/**
 * Returns a linear for a loop over tiles that makes so many products with each row. If PLoRA is merged and
 * there are several tiles, the merged copy is held for all of them in the open scope; else it is made on each
 * call, in the scope that is open then.
 */
export function linearOfTiles(
  linear: Linear,
  rows: number,
  { plora, ploraRows, mlpTileTokens }: MlpRows,
  products: number,
): () => Linear {
  const merged = (): Linear => mergedWherePays(linear, { plora, ploraRows, products });
  if (rows <= mlpTileTokens) return merged;
  const held = merged();
  return () => held;
}

/**
 * Calls body for each tile of 0..rows, in a scope of its own. Tiles are alike if they have as many rows, as
 * many of the branch's rows, and as many others between those.
 */
export function forEachTile(rows: number, seen: MlpRows, body: (tile: Rows, index: number) => unknown): void {
  forEachKind(tileKinds(rows, seen), (tile, index) => {
    scope(() => void body(tile, index));
  });
}

/**
 * Kinds of tiles by the branch's rows of a micro-batch: every layer asks for them, and pictures can be many.
 */
const knownKinds = new WeakMap<readonly Rows[], Map<string, Kind<Rows>[]>>();

function tileKinds(rows: number, { ploraRows, plora, picked, mlpTileTokens }: MlpRows): Kind<Rows>[] {
  const runs = (tile: Rows): Rows[] => (picked ? runsOf(picked.subarray(tile.start, tile.end)) : []);
  const kindOf = (tile: Rows): string => {
    const own = clipRows(ploraRows, tile);
    const others = plora === "merged" ? rowsBetween(own, rowCount(tile)) : [];
    return [own, others, runs(tile), [tile]].map((ranges) => ranges.map(rowCount).join(" ")).join(", ");
  };
  const find = (): Kind<Rows>[] => kindsOf(tilesOf(rows, mlpTileTokens), kindOf);
  if (!isAbridging()) return find();
  const known = knownKinds.get(ploraRows) ?? new Map<string, Kind<Rows>[]>();
  knownKinds.set(ploraRows, known);
  const key = `${rows} ${mlpTileTokens} ${plora}`;
  const kinds = known.get(key) ?? find();
  known.set(key, kinds);
  return kinds;
}
