/** Rows of a micro-batch in tiles: which of them are of pictures, and which tiles are alike to a plan. */
import { pickedBlocks } from "../nn/dropout.ts";
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
  tilesOf,
} from "../nn/rows.ts";
import { scope } from "../torch/tensor.ts";
import { isAbridging } from "../torch/trace.ts";

/** Rows of the micro-batch as an MLP sees them: all of them, or some. */
export interface MlpRows {
  imageRows: readonly Rows[];
  /** Whether PLoRA may be merged into copies of the weights that pictures are multiplied with. */
  plora: PloraWay;
  /** Rows that the MLP takes at a time, and attention where it makes its input again. */
  mlpTileTokens: number;
  /** Which rows of the micro-batch they are, where they are not all of it; they ascend. */
  picked?: Int32Array;
}

/** What an MLP sees of some rows of a micro-batch, (n) ascending. */
export function pickRows({ imageRows, mlpTileTokens, plora }: MlpRows, picked: Int32Array): MlpRows {
  const before = (row: number): number => {
    let [low, high] = [0, picked.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (picked[middle]! < row) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const pictures = imageRows.map(({ start, end }) => ({ start: before(start), end: before(end) }));
  return { imageRows: pictures.filter(({ start, end }) => start < end), mlpTileTokens, plora, picked };
}

/** Where a tile lies, and its image rows. */
export function tileInfo({ imageRows, picked }: MlpRows, tile: Rows): RowInfo {
  const place = picked ? picked.subarray(tile.start, tile.end) : tile.start;
  return { place, imageRows: clipRows(imageRows, tile) };
}

/**
 * A linear for a loop over tiles that makes so many products with each row: where PLoRA is merged and there are several tiles, held for all
 * of them in the open scope; else made when it is asked for, in the scope that is open then.
 */
export function linearOfTiles(
  linear: Linear,
  rows: number,
  { plora, imageRows, mlpTileTokens }: MlpRows,
  products: number,
): () => Linear {
  const merged = (): Linear => mergedWherePays(linear, { plora, imageRows, products });
  if (rows <= mlpTileTokens) return merged;
  const held = merged();
  return () => held;
}

/** Calls body for each tile of 0..rows, in a scope of its own; tiles of as many rows, and image rows, and others between them, are alike. */
export function forEachTile(rows: number, seen: MlpRows, body: (tile: Rows, index: number) => unknown): void {
  forEachKind(tileKinds(rows, seen), (tile, index) => {
    scope(() => void body(tile, index));
  });
}

/** Kinds of tiles by the pictures of a micro-batch: the same are asked for in every layer, and pictures can be many. */
const knownKinds = new WeakMap<readonly Rows[], Map<string, Kind<Rows>[]>>();

function tileKinds(rows: number, { imageRows, plora, picked, mlpTileTokens }: MlpRows): Kind<Rows>[] {
  const blocks = (tile: Rows): Rows[] => (picked ? pickedBlocks(picked.subarray(tile.start, tile.end)) : []);
  const kindOf = (tile: Rows): string => {
    const pictures = clipRows(imageRows, tile);
    const others = plora === "merged" ? rowsBetween(pictures, rowCount(tile)) : [];
    return [pictures, others, blocks(tile), [tile]]
      .map((ranges) => ranges.map(rowCount).join(" "))
      .join(", ");
  };
  const find = (): Kind<Rows>[] => kindsOf(tilesOf(rows, mlpTileTokens), kindOf);
  if (!isAbridging()) return find();
  const known = knownKinds.get(imageRows) ?? new Map<string, Kind<Rows>[]>();
  knownKinds.set(imageRows, known);
  const key = `${rows} ${mlpTileTokens} ${plora}`;
  const kinds = known.get(key) ?? find();
  known.set(key, kinds);
  return kinds;
}
