/**
 * CPU kernels for attention computed with matrix products. They do the work between the products, each in one
 * pass and in place.
 */
import { arange } from "../create.ts";
import type { Tensor } from "../tensor.ts";
import { cpuKernel } from "./fusedKernel.ts";

/**
 * Layout of a tile's scores: rows of `heads` query heads each. The first row sees `start` + 1 keys, and each
 * further row one more.
 */
export interface CausalTile {
  heads: number;
  start: number;
  scale: number;
}

export const attentionLoops = {
  /**
   * Replaces scores by the softmax of scale * scores over the keys that a row sees, and by 0 for other keys.
   * scores: (rows * heads, keys)
   */
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
      const last = arange(start, start + byRow.shape[0]!, { device }).view([-1, 1, 1]); // the last key that a row sees
      const future = arange(0, keys, { device }).gt(last); // (rows, 1, keys)
      const weights = byRow.maskedFill(future, Number.NEGATIVE_INFINITY)._softmax(-1, false);
      scores.copy_(weights.view([-1, keys]));
    },
    tolerance: 1e-5,
  }),
  /**
   * Replaces the gradient of the softmax's result by the gradient of the scores. weights: the softmax's
   * result. scale: as in causalSoftmax. Both tensors have one shape.
   */
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
  /** out = rows. Both (n, columns); `rows` may have any stride between its rows. */
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
  /** into += x. into: float32; both of one shape. */
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
