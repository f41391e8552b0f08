/**
 * A tile of causal attention in one kernel, on processors that multiply pairs of bfloat16: scores, softmax and values of a few rows at a
 * time, while they are in a core's cache. Elsewhere the twins do the same by products of matrices.
 */

import { empty, zeros } from "../create.ts";
import type { DType } from "../dtypes.ts";
import { native } from "../native.ts";
import { scope, type Tensor } from "../tensor.ts";
import { attentionLoops, type CausalTile } from "./attentionLoops.ts";
import { cpuKernel, isOnCard } from "./fusedKernel.ts";

/** Columns side by side in a panel: a product goes along it with the sums of a few rows in registers (native/product_blocks.h). */
const PANEL_COLUMNS = native.panelColumns();

const runs = (dtype: DType): boolean => dtype === "bfloat16" && native.multipliesBfloat16();

/** Panels of columns that are the rows of a head, or of its own columns, with pairs of rows along them. */
export type PanelOrder = "columns" | "pairs";

/** Keys or values of a head, (e, D), as all its tiles multiply with them in this order; themselves where the twins do. */
export function panelsOf(x: Tensor, order: PanelOrder): Tensor {
  if (isOnCard(x.device) || !runs(x.dtype)) return x;
  const out = roomForPanels(x, order);
  attentionTiles[order === "columns" ? "packColumns" : "packPairs"]([out, x]);
  return out;
}

/** (panels, pairs along what is summed over, columns of a panel, 2) */
function roomForPanels({ shape, dtype, device }: Tensor, order: PanelOrder): Tensor {
  const [columns, inner] = order === "columns" ? shape : shape.toReversed();
  return empty([Math.ceil(columns! / PANEL_COLUMNS), Math.ceil(inner! / 2), PANEL_COLUMNS, 2], {
    dtype,
    device,
  });
}

/** allKeys: of the head, whether the tile sees them or not. */
interface TileOfHead extends CausalTile {
  allKeys: number;
}

/** Options of a kernel, besides its tensors. */
function numbers(weights: Tensor, query: Tensor, { heads, start, allKeys, scale }: TileOfHead) {
  return [weights.shape[1]!, heads, start, query.shape[1]!, allKeys, { float: scale }] as const;
}

function twinWeights(weights: Tensor, query: Tensor, key: Tensor, tile: CausalTile): void {
  weights.addmm_(query, key.t(), { beta: 0 });
  attentionLoops.causalSoftmax([weights], tile);
}

/** A kernel that packs x, of any stride from row to row, into out, which is roomForPanels; inOrder: x as it lies in out. */
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
  /** Panels of columns that are the rows of x, (columns, inner). */
  packColumns: packing("pack_columns", (x, [panels, pairs]) =>
    paddedTo([panels * PANEL_COLUMNS, 2 * pairs], x)
      .view([panels, PANEL_COLUMNS, pairs, 2])
      .transpose(1, 2),
  ),
  /** Panels of x's own columns, with pairs of rows along them. x: (inner, columns). */
  packPairs: packing("pack_pairs", (x, [panels, pairs]) =>
    paddedTo([2 * pairs, panels * PANEL_COLUMNS], x)
      .view([pairs, 2, panels, PANEL_COLUMNS])
      .permute([2, 0, 3, 1]),
  ),
  /**
   * weights becomes the softmax of scale query key^T over the keys that a row sees, and out weights value. weights: (rows * heads, e), out,
   * query: (rows * heads, D), key, value: the first e of the head, (e, D), and their panels of all keys.
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
   * weights as above; dScores becomes the gradient of the scores, which query key^T are, and dQuery that of query. weights, dScores:
   * (rows * heads, e), dQuery, query, dOut: (rows * heads, D), key, value: the first e of the head, (e, D), and their panels of all keys.
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

/** x with zeros behind its rows and columns. */
function paddedTo(shape: [number, number], x: Tensor): Tensor {
  const padded = zeros(shape, { dtype: x.dtype, device: x.device });
  scope(() => {
    const [rows, columns] = x.shape as [number, number];
    padded.narrow(0, 0, rows).narrow(1, 0, columns).copy_(x);
  });
  return padded;
}
