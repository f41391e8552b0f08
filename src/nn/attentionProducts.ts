/**
 * Causal attention on the CPU in half precision, as products of matrices by tiles of query rows. libtorch's flash kernel multiplies there
 * at a sixth of the rate of a plain product, on processors without AMX (docs/performance.md); a tile's scores are as wide as what it
 * sees, so that the future costs little, and all query heads of a kv head are rows of one product. What lies between the products is
 * done in one pass each, in their place.
 */
import { attentionLoops } from "../torch/attentionLoops.ts";
import { empty, zeros } from "../torch/create.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { forEachPart, type Rows, rowsOf } from "./rows.ts";

/** Query rows of a tile: more waste products on the future, fewer make them thin. */
const TILE_ROWS = 128;
/** Scores of a tile at most: 2 MiB of half precision, which stay in the processor's cache. */
const TILE_SCORES = 2 ** 20;
const LEAST_TILE_ROWS = 16;

/** query: (G, Q, t, D); key, value: (G, 1, t, D). */
interface Heads {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** What a tile of one kv head sees. */
interface Tile {
  /** Query rows of all its heads, (n * Q, D). */
  query: Tensor;
  /** Their softmax over the keys that they see, (n * Q, e). */
  weights: Tensor;
  /** Keys that its last row sees. */
  seen: Rows;
}

/** Attention of every row to itself and those before it: (G, Q, t, D), with heads of a row side by side in memory. */
export function causalProducts(heads: Heads): Tensor {
  return scope(() => {
    const out = rowsFirst(heads.query); // (G, t * Q, D)
    forEachTile(heads, (head, rows) => {
      const { weights, seen } = tileWeights(heads, head, rows);
      tileOf(out, head, rows, heads).addmm_(weights, rowsOf(headOf(heads.value, head), seen), { beta: 0 });
    });
    return headsFirst(out, heads.query);
  });
}

/** Gradients of query, key and value, in their shapes, the latter two in float32, for the gradient dOut, (G, Q, t, D), of the output. */
export function causalProductsBackward(dOut: Tensor, heads: Heads): Tensor[] {
  return scope(() => {
    const { key, value } = heads;
    const scale = key.shape[3]! ** -0.5;
    const dQuery = rowsFirst(heads.query); // (G, t * Q, D)
    const [dKey, dValue] = [key, value].map(({ shape, device }) => zeros(shape, { device })) as [
      Tensor,
      Tensor,
    ];
    forEachTile(heads, (head, rows) => {
      const { query, weights, seen } = tileWeights(heads, head, rows);
      const seenOf = (x: Tensor): Tensor => rowsOf(headOf(x, head), seen); // (e, D)
      const dRows = queryRows(dOut, head, rows); // (n * Q, D)
      addProduct_(seenOf(dValue), weights, dRows);
      const dScores = dRows.mm(seenOf(value).t()); // (n * Q, e)
      attentionLoops.softmaxBackward([dScores, weights], { scale });
      addProduct_(seenOf(dKey), dScores, query);
      tileOf(dQuery, head, rows, heads).addmm_(dScores, seenOf(key), { beta: 0 });
    });
    return [headsFirst(dQuery, heads.query), dKey, dValue];
  });
}

/** Calls body in a scope of its own for each tile of rows of each kv head, from the last, which takes the most memory. */
function forEachTile({ query }: Heads, body: (head: number, rows: Rows) => void): void {
  const [G, Q, t] = query.shape as [number, number, number];
  const heads = Array.from({ length: G }, (_, head) => head);
  const tiles = causalTiles(t, Q);
  forEachPart(
    heads,
    () => "alike",
    (head) => {
      forEachPart(tiles, costClass, (rows) => {
        scope(() => body(head, rows));
      });
    },
  );
}

function causalTiles(t: number, Q: number): Rows[] {
  const tiles: Rows[] = [];
  for (let start = 0; start < t; ) {
    const fitting = Math.floor(TILE_SCORES / (Q * (start + TILE_ROWS)));
    const end = Math.min(t, start + Math.min(TILE_ROWS, Math.max(LEAST_TILE_ROWS, fitting)));
    tiles.push({ start, end });
    start = end;
  }
  return tiles.reverse();
}

/** Tiles of a class see the same number of keys but for a fortieth: in an abridged plan the first, which sees the most, stands for all. */
function costClass({ start, end }: Rows): string {
  return `${end - start} x ${Math.ceil(Math.log(end) * 40)}`;
}

function tileWeights(heads: Heads, head: number, rows: Rows): Tile {
  const seen = { start: 0, end: rows.end };
  const query = queryRows(heads.query, head, rows);
  const weights = query.mm(rowsOf(headOf(heads.key, head), seen).t()); // (n * Q, e): scores, until the softmax
  const [Q, D] = [heads.query.shape[1]!, heads.query.shape[3]!];
  attentionLoops.causalSoftmax([weights], { heads: Q, start: rows.start, scale: D ** -0.5 });
  return { query, weights, seen };
}

/** into, (e, D) in float32, += left^T right. left: (n * Q, e), right: (n * Q, D). */
function addProduct_(into: Tensor, left: Tensor, right: Tensor): void {
  scope(() => attentionLoops.addWide([left.t().mm(right), into]));
}

/** Rows of all query heads of a kv head, which lie side by side in a row. x: (G, Q, t, D) -> (n * Q, D). */
function queryRows(x: Tensor, head: number, { start, end }: Rows): Tensor {
  return scope(() => {
    const [, Q, t, D] = x.shape as [number, number, number, number];
    const rows = rowsOf(
      x
        .select(0, head)
        .transpose(0, 1)
        .view([t, Q * D]),
      { start, end },
    );
    const gathered = empty([end - start, Q * D], { dtype: x.dtype, device: x.device });
    attentionLoops.gatherRows([gathered, rows]);
    return gathered.view([-1, D]);
  });
}

/** Room for a result of x's shape, (G, Q, t, D), with heads of a row side by side: (G, t * Q, D). */
function rowsFirst({ shape, dtype, device }: Tensor): Tensor {
  const [G, Q, t, D] = shape as [number, number, number, number];
  return empty([G, t * Q, D], { dtype, device });
}

/** (G, t * Q, D) -> (G, Q, t, D), in the shape of `like`. */
function headsFirst(x: Tensor, like: Tensor): Tensor {
  const [G, Q, t, D] = like.shape as [number, number, number, number];
  return x.view([G, t, Q, D]).permute([0, 2, 1, 3]);
}

/** The rows of a tile in a result, (n * Q, D). x: (G, t * Q, D). */
function tileOf(x: Tensor, head: number, { start, end }: Rows, { query }: Heads): Tensor {
  const Q = query.shape[1]!;
  return rowsOf(x.select(0, head), { start: start * Q, end: end * Q });
}

/** x: (G, 1, t, D) -> (t, D) */
function headOf(x: Tensor, head: number): Tensor {
  return x.select(0, head).select(0, 0);
}
