/**
 * Causal attention on the CPU in half precision, as products of matrices by tiles of query rows. libtorch's flash kernel multiplies there
 * at a sixth of the rate of a plain product, on processors without AMX (docs/performance.md); a tile's scores are as wide as what it
 * sees, so that the future costs little, and all query heads of a kv head are rows of one product. Where the processor multiplies
 * pairs of bfloat16, a tile is one kernel, but for the gradients of keys and values.
 */

import { empty, zeros } from "../../torch/create.ts";
import { attentionLoops } from "../../torch/kernels/attentionLoops.ts";
import { attentionTiles, panelsOf } from "../../torch/kernels/attentionTiles.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { forEachPart, type Rows, rowsOf } from "../rows.ts";

/** Query rows of a tile: more waste products on the future, fewer make them thin. */
const TILE_ROWS = 128;
/** Scores of a tile at most: 2 MiB of half precision, which stay in the processor's cache. */
const TILE_SCORES = 2 ** 20;
const LEAST_TILE_ROWS = 16;

/** query: (G, Q, n, D), of the last n of t rows, heads of a row side by side in memory; key, value: (G, 1, t, D). */
interface Heads {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** Views of a kv head, made once for all its tiles. */
interface Head {
  index: number;
  /** Its query heads, a row's side by side: (n, Q * D). */
  query: Tensor;
  /** (t, D) */
  key: Tensor;
  value: Tensor;
}

/** Query rows of a tile, the keys that the last of them sees, and the row of the first among all t. */
interface Tile {
  rows: Rows;
  seen: Rows;
  start: number;
}

/** Attention of each query's row to itself and those before it: (G, Q, n, D), with heads of a row side by side in memory. */
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

/** Gradients of query, key and value, in their shapes, the latter two in float32 at least, for the gradient dOut, (G, Q, n, D), of the output. */
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

/** Calls body in a scope of its own for each kv head, which do alike. */
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

/** From the last, which takes the most memory, to the first. */
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

/** Tiles of a class see the same number of keys but for a fortieth: in an abridged plan the first, which sees the most, stands for all. */
function costClass({ rows, seen }: Tile): string {
  return `${rows.end - rows.start} x ${Math.ceil(Math.log(seen.end) * 40)}`;
}

/** query: the tile's rows of all query heads, (n * Q, D); key, value: what they see, (e, D); weights: room for (n * Q, e). */
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

/** into, (e, D) in float32 at least, += left^T right. left: (n * Q, e), right: (n * Q, D). */
function addProduct_(into: Tensor, left: Tensor, right: Tensor): void {
  scope(() => attentionLoops.addWide([left.t().mm(right), into]));
}

/** Rows, apart by any stride, as one piece of memory. x: (t, Q * D) -> (n * Q, D). */
function gatheredRows(x: Tensor, rows: Rows, D: number): Tensor {
  const { dtype, device } = x;
  const gathered = empty([rows.end - rows.start, x.shape[1]!], { dtype, device });
  attentionLoops.gatherRows([gathered, rowsOf(x, rows)]);
  return gathered.view([-1, D]);
}

/** Room for a result of x's shape, (G, Q, t, D), with heads of a row side by side: (G, t, Q, D). */
function rowsFirst({ shape, dtype, device }: Tensor): Tensor {
  const [G, Q, t, D] = shape as [number, number, number, number];
  return empty([G, t, Q, D], { dtype, device });
}

/** The query heads of a kv head as one row. x: (G, Q, t, D) -> (t, Q * D). */
function sideBySide(x: Tensor, index: number): Tensor {
  const [, Q, t, D] = x.shape as [number, number, number, number];
  return x
    .select(0, index)
    .transpose(0, 1)
    .view([t, Q * D]);
}

/** x: (G, 1, t, D) -> (t, D) */
function headOf(x: Tensor, index: number): Tensor {
  return x.select(0, index).select(0, 0);
}

/** Where rows are when each of their heads is a row. */
function headRows({ start, end }: Rows, heads: number): Rows {
  return { start: start * heads, end: end * heads };
}
