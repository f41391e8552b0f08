/** AdamW as torch has it, over the LoRA factors: decoupled decay, bias corrections, epsilon outside the root; all of it in place. */
import type { Lora } from "../models/lora.ts";
import { stack } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import { type DType, dispose, keep, scope, type Tensor } from "../torch/tensor.ts";

export interface Parameter {
  name: string;
  value: Tensor;
  gradient: Tensor;
}

/** Running means of a parameter's gradient and of its square. */
export interface Moments {
  mean: Tensor;
  square: Tensor;
}

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
}

export interface AdamW {
  options: AdamWOptions;
  parameters: Parameter[];
  /** In the order of the parameters. */
  moments: Moments[];
  stepsDone: number;
}

/** What torch's clip_grad_norm_ adds to the norm. */
const CLIP_EPSILON = 1e-6;

/** An optimizer before its first step; the caller disposes it with disposeAdamW. */
export function createAdamW(parameters: Parameter[], options: AdamWOptions): AdamW {
  const newMoments = ({ value }: Parameter): Moments => ({
    mean: value.zerosLike(),
    square: value.zerosLike(),
  });
  const moments = category("optimizerState", () => keep(scope(() => parameters.map(newMoments))));
  return { options, parameters, moments, stepsDone: 0 };
}

export function disposeAdamW({ moments }: AdamW): void {
  dispose(moments);
}

/** The factors of a LoRA made with gradients, in the order of its modules. */
export function loraParameters(lora: Lora): Parameter[] {
  return [...lora.modules].flatMap(([name, { a, b, gradA, gradB }]) => {
    if (!gradA || !gradB) throw new Error(`the LoRA of ${name} was made without gradients`);
    return [
      { name: `${name}.lora_A`, value: a, gradient: gradA },
      { name: `${name}.lora_B`, value: b, gradient: gradB },
    ];
  });
}

/** L2 norm of all gradients together; NaN or Infinity where any of them is. */
export function gradientNorm(parameters: readonly Parameter[]): number {
  return scope(() => normOfGradients(parameters).item());
}

/** The same as a tensor, without waiting for it. */
export function normOfGradients(parameters: readonly Parameter[]): Tensor {
  return scope(() => {
    const norms = parameters.map(({ gradient }) => gradient.linalgVectorNorm({ dtype: wideDtype(gradient) }));
    return stack(norms).linalgVectorNorm();
  });
}

function wideDtype({ dtype }: Tensor): DType {
  return dtype === "float64" ? dtype : "float32";
}

/** What gradients of this norm are multiplied with to be no longer than maxNorm; 0 stands for no limit. */
export function clipCoefficient(norm: number, maxNorm: number): number {
  return maxNorm === 0 ? 1 : Math.min(1, maxNorm / (norm + CLIP_EPSILON));
}

/** One step with the gradients times `gradientScale`, which are zero afterwards. */
export function stepAdamW(optimizer: AdamW, learningRate: number, gradientScale: number): void {
  optimizer.stepsDone += 1;
  for (const [index, parameter] of optimizer.parameters.entries()) {
    update_(parameter, optimizer.moments[index]!, optimizer, { learningRate, gradientScale });
  }
}

/** The moments by name, for a checkpoint. */
export function momentTensors({ parameters, moments }: AdamW): [name: string, Tensor][] {
  return parameters.flatMap(({ name }, index): [string, Tensor][] => [
    [`exp_avg.${name}`, moments[index]!.mean],
    [`exp_avg_sq.${name}`, moments[index]!.square],
  ]);
}

function update_(
  { value, gradient }: Parameter,
  { mean, square }: Moments,
  { options: { beta1, beta2, epsilon, weightDecay }, stepsDone }: AdamW,
  { learningRate, gradientScale }: { learningRate: number; gradientScale: number },
): void {
  const meanCorrection = 1 - beta1 ** stepsDone;
  const squareCorrection = 1 - beta2 ** stepsDone;
  scope(() => {
    const wide = gradient.to({ dtype: value.dtype }); // itself where gradients have the factors' precision
    if (gradientScale !== 1) wide.mul_(gradientScale);
    value.mul_(1 - learningRate * weightDecay);
    mean.lerp_(wide, 1 - beta1);
    square.mul_(beta2).addcmul_(wide, wide, { value: 1 - beta2 });
    const denominator = square.sqrt().div_(Math.sqrt(squareCorrection)).add_(epsilon);
    value.addcdiv_(mean, denominator, { value: -learningRate / meanCorrection });
    gradient.zero_();
  });
}
