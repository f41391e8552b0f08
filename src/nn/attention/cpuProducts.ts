/**
 * Causal attention on the CPU in half precision, as matrix products by tiles of query rows. libtorch's flash
 * kernel is slower: without AMX it multiplies at a sixth of a plain product's rate (docs/performance.md).
 *
 * A tile's scores are only as wide as the keys that it sees, so hardly any products are wasted on the future.
 * All query heads of a kv head are rows of one product. If the processor multiplies pairs of bfloat16
 * or has a matrix unit, one kernel computes a tile, except the gradients of keys and values.
 */

import { empty, zeros } from "../../torch/create.ts";
import { attentionLoops } from "../../torch/kernels/attentionLoops.ts";
import { attentionTiles, panelsOf } from "../../torch/kernels/attentionTiles.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { forEachPart, type Rows, rowsOf } from "../rows.ts";

/** Query rows of a tile. More rows waste products on the future; fewer rows make the products thin. */
const TILE_ROWS = 128;
/** Largest number of scores in a tile: 2 MiB in half precision, which stays in the processor's cache. */
const TILE_SCORES = 2 ** 20;
const LEAST_TILE_ROWS = 16;

/**
 * query: (G, Q, n, D) for the last n of t rows, a row's heads contiguous in memory; key, value: (G, 1, t, D).
 */
interface Heads {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** Views of one kv head, made once for all its tiles. */
interface Head {
  index: number;
  /** (n, Q * D): a row holds all query heads. */
  query: Tensor;
  /** (t, D) */
  key: Tensor;
  value: Tensor;
}

/**
 * rows: the tile's query rows; seen: keys that the last of them sees; start: index of the first row among all
 * t.
 */
interface Tile {
  rows: Rows;
  seen: Rows;
  start: number;
}

/**
 * Returns the attention of each query's row to itself and earlier rows: (G, Q, n, D), a row's heads
 * contiguous in memory.
 */
export function causalProducts(heads: Heads): Tensor {
  return scope(() => {
    const out = rowsFirst(heads.query); // (G, n, Q, D)
    const [Q, D] = out.shape.slice(2) as [number, number];
    forEachHead(heads, (head, tiles) => {
      const outOfHead = out.select(0, head.index).view([-1, D]); // (n * Q, D)
      const panels = [panelsOf(head.key, "columns"), panelsOf(head.value, "pairs")] as const;
      forEachPart(tiles, costClass, (tile) => {
        scope(() => {
          const { query, key, value, weights } = partsOf(head, tile, D);
          const outRows = rowsOf(outOfHead, headRows(tile.rows, Q));
          attentionTiles.causalTile(
            [weights, outRows, query, key, value, ...panels],
            optionsOf(head, tile, D),
          );
        });
      });
    });
    return out.transpose(1, 2);
  });
}

/**
 * Returns the gradients of query, key and value in their shapes, for the gradient dOut, (G, Q, n, D), of the
 * output. Gradients of key and value are in float32, or float64 for float64 inputs.
 */
export function causalProductsBackward(dOut: Tensor, heads: Heads): Tensor[] {
  return scope(() => {
    const { key, value } = heads;
    const dtype = key.dtype === "float64" ? key.dtype : "float32";
    const dQuery = rowsFirst(heads.query); // (G, n, Q, D)
    const [Q, D] = dQuery.shape.slice(2) as [number, number];
    const [dKey, dValue] = [key, value].map(({ shape, device }) => zeros(shape, { dtype, device })) as [
      Tensor,
      Tensor,
    ];
    forEachHead(heads, (head, tiles) => {
      const dOutOfHead = sideBySide(dOut, head.index); // (n, Q * D)
      const dQueryOfHead = dQuery.select(0, head.index).view([-1, D]); // (n * Q, D)
      const [dKeyOfHead, dValueOfHead] = [headOf(dKey, head.index), headOf(dValue, head.index)]; // (t, D)
      const panels = [
        panelsOf(head.key, "columns"),
        panelsOf(head.value, "columns"),
        panelsOf(head.key, "pairs"),
      ] as const;
      forEachPart(tiles, costClass, (tile) => {
        scope(() => {
          const { query, key, value, weights } = partsOf(head, tile, D);
          const dRows = gatheredRows(dOutOfHead, tile.rows, D); // (n * Q, D)
          const dScores = weights.emptyLike(); // (n * Q, e)
          const dQueryRows = rowsOf(dQueryOfHead, headRows(tile.rows, Q));
          attentionTiles.causalTileBackward(
            [weights, dScores, dQueryRows, query, dRows, key, value, ...panels],
            optionsOf(head, tile, D),
          );
          addProduct_(rowsOf(dValueOfHead, tile.seen), weights, dRows);
          addProduct_(rowsOf(dKeyOfHead, tile.seen), dScores, query);
        });
      });
    });
    return [dQuery.transpose(1, 2), dKey, dValue];
  });
}

/** Calls body for each kv head, in a scope of its own; all heads do the same work. */
function forEachHead({ query, key, value }: Heads, body: (head: Head, tiles: Tile[]) => void): void {
  const [G, Q, queries] = query.shape as [number, number, number];
  const tiles = causalTiles(queries, key.shape[2]!, Q);
  const indexes = Array.from({ length: G }, (_, index) => index);
  forEachPart(
    indexes,
    () => "alike",
    (index) => {
      scope(() => {
        const views = {
          query: sideBySide(query, index),
          key: headOf(key, index),
          value: headOf(value, index),
        };
        body({ index, ...views }, tiles);
      });
    },
  );
}

/** Returns tiles from the last, which needs the most memory, to the first. */
function causalTiles(queries: number, t: number, Q: number): Tile[] {
  const tiles: Tile[] = [];
  const first = t - queries;
  for (let start = first; start < t; ) {
    const fitting = Math.floor(TILE_SCORES / (Q * (start + TILE_ROWS)));
    const end = Math.min(t, start + Math.min(TILE_ROWS, Math.max(LEAST_TILE_ROWS, fitting)));
    tiles.push({ rows: { start: start - first, end: end - first }, seen: { start: 0, end }, start });
    start = end;
  }
  return tiles.reverse();
}

/**
 * Returns the tile's cost class. Tiles of a class see the same number of keys within a fortieth. In an
 * abridged plan the first tile, which sees the most keys, stands for its class.
 */
function costClass({ rows, seen }: Tile): string {
  return `${rows.end - rows.start} x ${Math.ceil(Math.log(seen.end) * 40)}`;
}

/**
 * Returns a tile's tensors. query: the tile's rows of all query heads, (n * Q, D); key, value: the keys that
 * the tile sees, (e, D); weights: uninitialised, (n * Q, e).
 */
function partsOf(
  head: Head,
  { rows, seen }: Tile,
  D: number,
): Record<"query" | "key" | "value" | "weights", Tensor> {
  const query = gatheredRows(head.query, rows, D);
  const { dtype, device } = query;
  const weights = empty([query.shape[0]!, seen.end], { dtype, device });
  return { query, key: rowsOf(head.key, seen), value: rowsOf(head.value, seen), weights };
}

function optionsOf({ query, key }: Head, { start }: Tile, D: number) {
  return { heads: query.shape[1]! / D, start, scale: D ** -0.5, allKeys: key.shape[0]! };
}

/** Adds left^T right to `into`, (e, D), in float32 or wider. left: (n * Q, e), right: (n * Q, D). */
function addProduct_(into: Tensor, left: Tensor, right: Tensor): void {
  scope(() => attentionLoops.addWide([left.t().mm(right), into]));
}

/** Copies rows of any stride into contiguous memory. x: (t, Q * D) -> (n * Q, D). */
function gatheredRows(x: Tensor, rows: Rows, D: number): Tensor {
  const { dtype, device } = x;
  const gathered = empty([rows.end - rows.start, x.shape[1]!], { dtype, device });
  attentionLoops.gatherRows([gathered, rowsOf(x, rows)]);
  return gathered.view([-1, D]);
}

/** Allocates a result of x's shape, (G, Q, t, D), with a row's heads contiguous: (G, t, Q, D). */
function rowsFirst({ shape, dtype, device }: Tensor): Tensor {
  const [G, Q, t, D] = shape as [number, number, number, number];
  return empty([G, t, Q, D], { dtype, device });
}

/**
 * Returns a view of a kv head's query heads, all heads of a row in one row. x: (G, Q, t, D) -> (t, Q * D).
 */
function sideBySide(x: Tensor, index: number): Tensor {
  const [, Q, t, D] = x.shape as [number, number, number, number];
  return x
    .select(0, index)
    .transpose(0, 1)
    .view([t, Q * D]);
}

/** Returns a view of one head. x: (G, 1, t, D) -> (t, D). */
function headOf(x: Tensor, index: number): Tensor {
  return x.select(0, index).select(0, 0);
}

/** Returns the place of rows when each of their heads is a row. */
function headRows({ start, end }: Rows, heads: number): Rows {
  return { start: start * heads, end: end * heads };
}
