/**
 * Causal attention on the CPU in half precision, as products of matrices by tiles of query rows. libtorch's flash kernel multiplies there
 * at a sixth of the rate of a plain product, on processors without AMX (docs/performance.md); a tile's scores are as wide as what it
 * sees, so that the future costs little, and all query heads of a kv head are rows of one product.
 */
import { empty, full, zeros } from "../torch/create.ts";
import { _softmaxBackwardData } from "../torch/ops.gen.ts";
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

/** Attention of every row to itself and those before it: (G, Q, t, D), with heads of a row side by side in memory. */
export function causalProducts({ query, key, value }: Heads): Tensor {
  return scope(() => {
    const [G, Q, t, D] = query.shape as [number, number, number, number];
    const out = empty([G, t, Q, D], { dtype: query.dtype, device: query.device });
    const tiles = causalTiles(t, Q, query);
    forEachHead(G, (head) => {
      forEachPart(tiles, costClass, (tile) => {
        scope(() => {
          const { weights } = tileWeights(query, key, head, tile);
          const seen = rowsOf(headOf(value, head), tile.seen); // (e, D)
          rowsOf(out.select(0, head), tile.rows).copy_(weights.mm(seen).view([-1, Q, D]));
        });
      });
    });
    return out.permute([0, 2, 1, 3]);
  });
}

/** Gradients of query, key and value, in their shapes, the latter two in float32, for the gradient dOut, (G, Q, t, D), of the output. */
export function causalProductsBackward(dOut: Tensor, { query, key, value }: Heads): Tensor[] {
  return scope(() => {
    const [G, Q, t, D] = query.shape as [number, number, number, number];
    const { device, dtype } = query;
    const dQuery = empty([G, t, Q, D], { dtype, device });
    const [dKey, dValue] = [key, value].map(() => zeros([G, 1, t, D], { device })) as [Tensor, Tensor];
    const tiles = causalTiles(t, Q, query);
    forEachHead(G, (head) => {
      forEachPart(tiles, costClass, (tile) => {
        scope(() => {
          const seen = (x: Tensor): Tensor => rowsOf(headOf(x, head), tile.seen); // (e, D)
          const { scaled, weights } = tileWeights(query, key, head, tile);
          const dRows = tileRows(dOut, head, tile.rows).reshape([-1, D]); // (n * Q, D)
          seen(dValue).add_(weights.t().mm(dRows));
          const dWeights = dRows.mm(seen(value).t()); // (n * Q, e)
          const dScores = _softmaxBackwardData(dWeights, weights, -1, dtype);
          const dTile = dScores.mm(seen(key)).mul_(D ** -0.5);
          rowsOf(dQuery.select(0, head), tile.rows).copy_(dTile.view([-1, Q, D]));
          seen(dKey).add_(dScores.t().mm(scaled));
        });
      });
    });
    return [dQuery.permute([0, 2, 1, 3]), dKey, dValue];
  });
}

interface Tile {
  rows: Rows;
  /** Keys that its last row sees. */
  seen: Rows;
  /** (n, 1, n): -Infinity where a row of the tile would see a later one. */
  future: Tensor;
}

/** From the last, which takes the most memory, to the first. */
function causalTiles(t: number, Q: number, { dtype, device }: Tensor): Tile[] {
  const mask = full([TILE_ROWS, TILE_ROWS], Number.NEGATIVE_INFINITY, { dtype, device }).triu({
    diagonal: 1,
  });
  const tiles: Tile[] = [];
  for (let start = 0; start < t; ) {
    const fitting = Math.floor(TILE_SCORES / (Q * (start + TILE_ROWS)));
    const rows = Math.min(t - start, TILE_ROWS, Math.max(LEAST_TILE_ROWS, fitting));
    const end = start + rows;
    const future = mask.narrow(0, 0, rows).narrow(1, 0, rows).unsqueeze(1);
    tiles.push({ rows: { start, end }, seen: { start: 0, end }, future });
    start = end;
  }
  return tiles.reverse();
}

/** Tiles of a class see the same number of keys but for a fortieth: in an abridged plan the first, which sees the most, stands for all. */
function costClass({ rows, seen }: Tile): string {
  return `${rows.end - rows.start} x ${Math.ceil(Math.log(seen.end) * 40)}`;
}

/** scaled: query rows of a tile times D^-1/2, (n * Q, D); weights: their softmax over the keys that they see, (n * Q, e). */
function tileWeights(
  query: Tensor,
  key: Tensor,
  head: number,
  { rows, seen, future }: Tile,
): { scaled: Tensor; weights: Tensor } {
  return scope(() => {
    const [, Q, , D] = query.shape as [number, number, number, number];
    const count = rows.end - rows.start;
    const scaled = tileRows(query, head, rows)
      .mul(D ** -0.5)
      .reshape([-1, D]);
    const scores = scaled.mm(rowsOf(headOf(key, head), seen).t()); // (n * Q, e)
    scores.view([count, Q, seen.end]).narrow(2, rows.start, count).add_(future);
    return { scaled, weights: scores._softmax(-1, false) };
  });
}

/** Rows of all query heads of a kv head. x: (G, Q, t, D) -> (n, Q, D). */
function tileRows(x: Tensor, head: number, rows: Rows): Tensor {
  return rowsOf(x.select(0, head).transpose(0, 1), rows);
}

/** x: (G, 1, t, D) -> (t, D) */
function headOf(x: Tensor, head: number): Tensor {
  return x.select(0, head).select(0, 0);
}

/** kv heads do alike. */
function forEachHead(G: number, body: (head: number) => void): void {
  const heads = Array.from({ length: G }, (_, head) => head);
  forEachPart(heads, () => 0, body);
}
