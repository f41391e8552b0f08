/**
 * Computes a tile of causal attention in one kernel, on processors that multiply pairs of bfloat16 or have a
 * matrix unit. Scores, softmax and values of a few rows are computed while they are in a core's cache. On
 * other processors, the twins compute the same with matrix products.
 */

import { empty, zeros } from "../create.ts";
import type { DType } from "../dtypes.ts";
import { native } from "../native.ts";
import { scope, type Tensor } from "../tensor.ts";
import { attentionLoops, type CausalTile } from "./attentionLoops.ts";
import { cpuKernel, isOnCard } from "./fusedKernel.ts";

/**
 * Number of columns in a panel. A product runs along the panel and keeps the sums of a few rows in registers
 * (native/product_panels.h).
 */
const PANEL_COLUMNS = native.panelColumns();

const runs = (dtype: DType): boolean => dtype === "bfloat16" && native.multipliesBfloat16();

/**
 * Order of panels. "columns": a panel's columns are the head's rows. "pairs": they are the head's own
 * columns, and pairs of rows lie along them.
 */
export type PanelOrder = "columns" | "pairs";

/**
 * Packs keys or values of a head, (e, D), in the order in which all its tiles multiply with them. Returns x
 * itself if the twins run.
 */
export function panelsOf(x: Tensor, order: PanelOrder): Tensor {
  if (isOnCard(x.device) || !runs(x.dtype)) return x;
  const out = roomForPanels(x, order);
  attentionTiles[order === "columns" ? "packColumns" : "packPairs"]([out, x]);
  return out;
}

/** Allocates panels: (panels, pairs along the summed dimension, columns of a panel, 2) */
function roomForPanels({ shape, dtype, device }: Tensor, order: PanelOrder): Tensor {
  const [columns, inner] = order === "columns" ? shape : shape.toReversed();
  const together = native.panelPairs();
  const pairs = Math.ceil(inner! / 2 / together) * together;
  return empty([Math.ceil(columns! / PANEL_COLUMNS), pairs, PANEL_COLUMNS, 2], { dtype, device });
}

/** allKeys: number of all keys of the head, including those that the tile does not see. */
interface TileOfHead extends CausalTile {
  allKeys: number;
}

/** Arguments of a kernel, besides its tensors. */
function numbers(weights: Tensor, query: Tensor, { heads, start, allKeys, scale }: TileOfHead) {
  return [weights.shape[1]!, heads, start, query.shape[1]!, allKeys, { float: scale }] as const;
}

function twinWeights(weights: Tensor, query: Tensor, key: Tensor, tile: CausalTile): void {
  weights.addmm_(query, key.t(), { beta: 0 });
  attentionLoops.causalSoftmax([weights], tile);
}

/**
 * Makes a kernel that packs x into `out`, a tensor of roomForPanels. x may have any stride between its rows.
 * inOrder: arranges x as it lies in `out`.
 */
function packing(entry: string, inOrder: (x: Tensor, panelsAndPairs: [number, number]) => Tensor) {
  return cpuKernel<[out: Tensor, x: Tensor], void>({
    entry,
    runs,
    strided: [1],
    scalars: (out) => out,
    inputs: ([out, x]) => [out, x, x.shape[0]!, x.shape[1]!, x.strides[0]!],
    reads: [1],
    writes: [0],
    twin: ([out, x]) => out.copy_(inOrder(x, out.shape.slice(0, 2) as [number, number])),
    tolerance: 0,
  });
}

export const attentionTiles = {
  /** Packs panels whose columns are the rows of x, (columns, inner). */
  packColumns: packing("pack_columns", (x, [panels, pairs]) =>
    paddedTo([panels * PANEL_COLUMNS, 2 * pairs], x)
      .view([panels, PANEL_COLUMNS, pairs, 2])
      .transpose(1, 2),
  ),
  /** Packs panels of x's own columns, with pairs of rows along them. x: (inner, columns). */
  packPairs: packing("pack_pairs", (x, [panels, pairs]) =>
    paddedTo([2 * pairs, panels * PANEL_COLUMNS], x)
      .view([pairs, 2, panels, PANEL_COLUMNS])
      .permute([2, 0, 3, 1]),
  ),
  /**
   * weights = the softmax of scale * query key^T over the keys that a row sees; out = weights value.
   * weights: (rows * heads, e); out, query: (rows * heads, D); key, value: the first e of the head, (e, D).
   * keyColumns, valuePairs: panels of all the head's keys and values.
   */
  causalTile: cpuKernel<
    [
      ...[weights: Tensor, out: Tensor, query: Tensor, key: Tensor, value: Tensor],
      ...[keyColumns: Tensor, valuePairs: Tensor],
    ],
    TileOfHead
  >({
    entry: "causal_tile",
    runs,
    strided: [3, 4, 5, 6],
    scalars: (weights) => weights,
    inputs: ([weights, out, query, , , keyColumns, valuePairs], tile) => [
      ...[weights, out, query, keyColumns, valuePairs],
      ...numbers(weights, query, tile),
    ],
    reads: [2, 3, 4],
    writes: [0, 1],
    twin: ([weights, out, query, key, value], tile) => {
      twinWeights(weights, query, key, tile);
      out.addmm_(weights, value, { beta: 0 });
    },
    tolerance: 1e-5,
    roundings: 3,
  }),
  /**
   * Computes weights as causalTile does. dScores = the gradient of the scores, query key^T; dQuery = the
   * gradient of query.
   * weights, dScores: (rows * heads, e); dQuery, query, dOut: (rows * heads, D); key, value: the first e of
   * the head, (e, D). keyColumns, valueColumns, keyPairs: panels of all the head's keys and values.
   */
  causalTileBackward: cpuKernel<
    [
      ...[weights: Tensor, dScores: Tensor, dQuery: Tensor, query: Tensor, dOut: Tensor],
      ...[key: Tensor, value: Tensor, keyColumns: Tensor, valueColumns: Tensor, keyPairs: Tensor],
    ],
    TileOfHead
  >({
    entry: "causal_tile_backward",
    runs,
    strided: [5, 6, 7, 8, 9],
    scalars: (weights) => weights,
    inputs: ([weights, dScores, dQuery, query, dOut, , , ...panels], tile) => [
      ...[weights, dScores, dQuery, query, dOut, ...panels],
      ...numbers(weights, query, tile),
    ],
    reads: [3, 4, 5, 6],
    writes: [0, 1, 2],
    twin: ([weights, dScores, dQuery, query, dOut, key, value], tile) => {
      twinWeights(weights, query, key, tile);
      dScores.addmm_(dOut, value.t(), { beta: 0 });
      attentionLoops.softmaxBackward([dScores, weights], tile);
      dQuery.addmm_(dScores, key, { beta: 0 });
    },
    tolerance: 1e-5,
    roundings: 4,
  }),
} as const;

/** Pads x with zeros after its rows and columns. */
function paddedTo(shape: [number, number], x: Tensor): Tensor {
  const padded = zeros(shape, { dtype: x.dtype, device: x.device });
  scope(() => {
    const [rows, columns] = x.shape as [number, number];
    padded.narrow(0, 0, rows).narrow(1, 0, columns).copy_(x);
  });
  return padded;
}
