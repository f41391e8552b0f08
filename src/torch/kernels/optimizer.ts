/** Updates factors and moments with AdamW, in one pass over them and their gradients. */

import { whereOut } from "../ops.gen.ts";
import type { Tensor } from "../tensor.ts";
import { kernel } from "./fusedKernel.ts";

/**
 * Trained factors, their gradients, and the running means of the gradients and of their squares. All have one
 * number of elements, and all are float32 except the gradients.
 */
type AdamWInputs = [
  value: Tensor,
  gradient: Tensor,
  mean: Tensor,
  square: Tensor,
  /** (): multiplies the gradients. */
  scale: Tensor,
];

/** Numbers of one optimizer step. */
export interface AdamWNumbers {
  /** Multipliers: `decay` for the trained factors, `squareKeep` for the means of squares. */
  decay: number;
  squareKeep: number;
  /** Weights of the gradient, and of its square, in the running means. */
  meanRate: number;
  squareRate: number;
  /** Multiplier of the root of the squares' mean; `epsilon` is then added to the product. */
  rootFactor: number;
  epsilon: number;
  stepSize: number;
}

export const optimizerKernels = {
  /**
   * Does one step of AdamW, and sets the gradients to zero. If the scale is not finite, nothing else changes.
   */
  adamW: kernel<AdamWInputs, AdamWNumbers>({
    source: "adamW",
    entry: "adamw",
    scalars: (_value, gradient) => gradient,
    work: ([value, ...others], numbers) => ({
      threads: value.numel,
      inputs: [
        ...[value, ...others],
        ...[numbers.decay, numbers.meanRate, numbers.squareKeep, numbers.squareRate, numbers.rootFactor].map(
          asFloat,
        ),
        ...[numbers.epsilon, numbers.stepSize].map(asFloat),
      ],
      count: value.numel,
    }),
    reads: [0, 1, 2, 3],
    writes: [0, 1, 2, 3],
    twin: adamWTwin,
    tolerance: 1e-6,
  }),
} as const;

function asFloat(float: number): { float: number } {
  return { float };
}

/** Does all allocations before it changes anything, so a failed allocation leaves the state intact. */
function adamWTwin([value, gradient, mean, square, scale]: AdamWInputs, numbers: AdamWNumbers): void {
  const { decay, meanRate, squareKeep, squareRate, rootFactor, epsilon, stepSize } = numbers;
  const isOpen = scale.isfinite();
  const wide = gradient.to({ dtype: value.dtype, copy: true }).mul_(scale);
  const newMean = wide.sub(mean).mul_(meanRate).add_(mean);
  const newSquare = square.mul(squareKeep).addcmul_(wide, wide, { value: squareRate });
  const root = newSquare.sqrt().mul_(rootFactor).add_(epsilon);
  const newValue = value.mul(decay).addcdiv_(newMean, root, { value: -stepSize });
  whereOut(isOpen, newValue, value, { out: value });
  whereOut(isOpen, newMean, mean, { out: mean });
  whereOut(isOpen, newSquare, square, { out: square });
  gradient.zero_();
}
