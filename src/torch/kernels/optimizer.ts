/** The update of AdamW in one pass over factors, gradients and moments. */

import { whereOut } from "../ops.gen.ts";
import type { Tensor } from "../tensor.ts";
import { kernel } from "./fusedKernel.ts";

/** Factors, their gradients, running means of these and of their squares, of one number of elements; float32, but for the gradients. */
type AdamWInputs = [
  value: Tensor,
  gradient: Tensor,
  mean: Tensor,
  square: Tensor,
  /** (): what gradients are multiplied with. */
  scale: Tensor,
];

/** Numbers of one step. */
export interface AdamWNumbers {
  /** `decay` multiplies the trained values, `squareKeep` the means of squares. */
  decay: number;
  squareKeep: number;
  /** How much of the gradient, and of its square, goes into the means. */
  meanRate: number;
  squareRate: number;
  /** Factor of the root of the squares' mean; `epsilon` is added to the product. */
  rootFactor: number;
  epsilon: number;
  stepSize: number;
}

export const optimizerKernels = {
  /** A step of AdamW; gradients are zero afterwards. Where the scale is not finite, nothing else changes. */
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

/** Whatever allocates comes before anything changes. */
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
