/** CPU kernels of attention by products, for the work between the products: each in one pass, in place. */
import { arange } from "../create.ts";
import type { Tensor } from "../tensor.ts";
import { cpuKernel } from "./fusedKernel.ts";

/** How scores of a tile are to be read: rows of `heads` query heads each, the first of which sees `start` + 1 keys. */
export interface CausalTile {
  heads: number;
  start: number;
  scale: number;
}

export const attentionLoops = {
  /** Scores (rows * heads, keys) become the softmax of scale * scores over the keys that a row sees, and zero beyond. */
  causalSoftmax: cpuKernel<[scores: Tensor], CausalTile>({
    entry: "causal_softmax",
    scalars: (scores) => scores,
    inputs: ([scores], { heads, start, scale }) => [
      ...[scores, { float: scale }, scores.shape[1]!, heads, start],
    ],
    reads: [0],
    writes: [0],
    twin: ([scores], { heads, start, scale }) => {
      const { device } = scores;
      const keys = scores.shape[1]!;
      const byRow = scores.mul(scale).view([-1, heads, keys]);
      const last = arange(start, start + byRow.shape[0]!, { device }).view([-1, 1, 1]); // the key that a row sees last
      const future = arange(0, keys, { device }).gt(last); // (rows, 1, keys)
      const weights = byRow.maskedFill(future, Number.NEGATIVE_INFINITY)._softmax(-1, false);
      scores.copy_(weights.view([-1, keys]));
    },
    tolerance: 1e-5,
  }),
  /** The gradient of the softmax's result becomes that of the scores, for its result `weights` and the same scale; both of one shape. */
  softmaxBackward: cpuKernel<[grad: Tensor, weights: Tensor], { scale: number }>({
    entry: "softmax_backward",
    scalars: (grad) => grad,
    inputs: ([grad, weights], { scale }) => [grad, weights, { float: scale }, grad.shape[1]!],
    reads: [0, 1],
    writes: [0],
    twin: ([grad, weights], { scale }) => {
      const mean = grad.mul(weights).sumDim([-1], { keepdim: true }); // (rows, 1)
      grad.sub_(mean).mul_(weights).mul_(scale);
    },
    tolerance: 1e-5,
  }),
  /** out = rows, of the same shape but apart by any stride. (n, columns) */
  gatherRows: cpuKernel<[out: Tensor, rows: Tensor], void>({
    entry: "gather_rows",
    strided: [1],
    scalars: (out) => out,
    inputs: ([out, rows]) => [out, rows, rows.shape[1]!, rows.strides[0]!],
    reads: [1],
    writes: [0],
    twin: ([out, rows]) => out.copy_(rows),
    tolerance: 0,
  }),
  /** into, float32, += x; both of one shape. */
  addWide: cpuKernel<[x: Tensor, into: Tensor], void>({
    entry: "add_wide",
    scalars: (x) => x,
    inputs: (inputs) => inputs,
    reads: [0, 1],
    writes: [1],
    twin: ([x, into]) => into.add_(x),
    tolerance: 1e-6,
  }),
} as const;
