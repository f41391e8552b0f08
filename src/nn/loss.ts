/**
 * Cross-entropy through the frozen head, in chunks of label rows. One pass makes the loss and its exact
 * gradient; no (T, V) matrix exists.
 */
import { empty, fromArray, full, zeros } from "../torch/create.ts";
import { isFused } from "../torch/kernels/fusedKernel.ts";
import { fused } from "../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { type FrozenMatrix, frozenGradient, frozenProduct } from "./frozen/frozen.ts";
import { addRmsNormGradient_, type RmsNorm, rmsNorm } from "./norm.ts";
import { forEachTileOf, rowsOf } from "./rows.ts";

export interface HeadLoss {
  /** Norm applied to the last hidden states. */
  norm: RmsNorm;
  /** (V, C), frozen. */
  head: FrozenMatrix;
  /** Label rows per chunk; only their logits exist at the same time. */
  chunkTokens: number;
}

/** Label rows of a micro-batch, and the token that each row must predict; both have M elements. */
export interface Labels {
  rows: Int32Array;
  targets: Int32Array;
}

/** Returns the rows that have a target; targets: -100 if there is none. */
export function labelsOf(targets: Int32Array): Labels {
  const rows = new Int32Array(targets.length);
  let count = 0;
  for (let row = 0; row < targets.length; row++) if (targets[row] !== -100) rows[count++] = row;
  const labelled = rows.slice(0, count);
  return { rows: labelled, targets: labelled.map((row) => targets[row]!) };
}

/**
 * Returns the negative log likelihood of each row's target, (M) in float32. With gradientScale, overwrites
 * states chunk by chunk with gradientScale times the gradient of the sum of losses. states: (M, C), before
 * the final norm; targets: (M).
 */
export function headLoss_(
  states: Tensor,
  targets: Int32Array,
  options: HeadLoss,
  gradientScale?: number,
): Tensor {
  return scope(() => {
    const { device } = states;
    const losses = empty([targets.length], { dtype: wideOf(states), device });
    const wanted = fromArray(targets, [targets.length, 1], { dtype: "int64", device });
    forEachTileOf(targets.length, options.chunkTokens, (chunk) => {
      scope(() => {
        const rows = rowsOf(states, chunk); // (n, C)
        const { loss, dStates } = chunkLoss(rows, rowsOf(wanted, chunk), options, gradientScale);
        rowsOf(losses, chunk).copy_(loss);
        if (dStates) rows.copy_(dStates);
      });
    });
    return losses;
  });
}

/**
 * Returns the loss (n) of a chunk and, if scale is given, scale times the gradient of `states`. states: (n,
 * C), targets: (n, 1).
 */
function chunkLoss(
  states: Tensor,
  targets: Tensor,
  { norm, head }: HeadLoss,
  scale: number | undefined,
): { loss: Tensor; dStates?: Tensor } {
  return scope(() => {
    const logits = frozenProduct(rmsNorm(states, norm), head); // (n, V)
    const gradientOf = (dLogits: Tensor): Tensor => {
      const dStates = zeros(states.shape, { dtype: states.dtype, device: states.device });
      addRmsNormGradient_(dStates, frozenGradient(dLogits, head), states, norm);
      return dStates;
    };
    if (isFused(logits)) {
      const loss = empty([targets.shape[0]!], { device: states.device });
      fused.softmaxGradient([logits, targets.squeeze(1), loss], { scale: scale ?? 0 }); // overwrites the logits
      return scale === undefined ? { loss } : { loss, dStates: gradientOf(logits) };
    }
    const wide = logits.to({ dtype: wideOf(states) }); // (n, V): becomes exp(l - max), then the gradient
    const target = wide.gather(1, targets); // (n, 1)
    const max = wide.amax({ dim: [-1], keepdim: true }); // (n, 1)
    wide.sub_(max).exp_();
    const sum = wide.sumDim([-1], { keepdim: true }); // (n, 1)
    const loss = sum.log().add_(max).sub_(target).squeeze(1); // (n)
    if (scale === undefined) return { loss };
    wide.mul_(sum.reciprocal().mul_(scale)); // scale * softmax
    wide.scatterAdd_(
      1,
      targets,
      full([targets.shape[0]!, 1], -scale, { dtype: wide.dtype, device: wide.device }),
    );
    const dLogits = wide.dtype === logits.dtype ? wide : logits.copy_(wide); // (n, V)
    return { loss, dStates: gradientOf(dLogits) };
  });
}

function wideOf(x: Tensor): "float32" | "float64" {
  return x.dtype === "float64" ? "float64" : "float32";
}
