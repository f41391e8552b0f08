/**
 * AdamW's update of one tile of a parameter, done wholly or not at all: whatever allocates comes before anything changes, so that an update
 * that ran out of memory goes on where it stood.
 */
import { scope, type Tensor } from "../torch/tensor.ts";
import type { AdamWOptions } from "./adamW.ts";
import { type Codes, dequantized, quantized } from "./eightBit.ts";
import {
  type CodeTables,
  copyMoment_,
  flatSpan,
  isCodes,
  type Moment,
  type Moments,
  type Span,
} from "./moments.ts";
import type { Parameter } from "./optimizer.ts";

/** Elements of one parameter. */
export interface Tile {
  parameter: Parameter;
  moments: Moments;
  span: Span;
  /** Elements of all parameters up to its end. */
  endElements: number;
}

/** What an update changes of a tile, beside factors that are on the device. */
export interface TileState extends Moments {
  value: Tensor | undefined;
}

export interface TileUpdate {
  options: AdamWOptions;
  tables: CodeTables | undefined;
  stepsDone: number;
  learningRate: number;
  /** What gradients are multiplied with. */
  gradientScale: number;
}

/** The tile's gradients are zero afterwards. */
export function updateTile_({ parameter, span }: Tile, state: TileState, update: TileUpdate): void {
  scope(() => {
    const value = state.value ?? flatSpan(parameter.value, span);
    const gradient = flatSpan(parameter.gradient, span);
    const { mean, square } = state;
    if (isCodes(mean) && isCodes(square)) updateCodes_({ value, gradient, mean, square }, span, update);
    else updateFloats_({ value, gradient, mean: floats(mean), square: floats(square) }, update);
    if (parameter.copy) flatSpan(parameter.copy, span).copy_(value);
    gradient.zero_();
  });
}

interface Numbers {
  value: Tensor;
  gradient: Tensor;
  mean: Tensor;
  square: Tensor;
}

/** In place, but for the root, for which there is room before. */
function updateFloats_({ value, gradient, mean, square }: Numbers, update: TileUpdate): void {
  const { decay, meanRate, squareRate, gradientScale } = ratesOf(update);
  const wide = gradient.to({ dtype: value.dtype }); // itself where gradients have the factors' precision
  const root = square.emptyLike();
  if (gradientScale !== 1) wide.mul_(gradientScale);
  value.mul_(decay);
  mean.lerp_(wide, meanRate);
  square.mul_(1 - squareRate).addcmul_(wide, wide, { value: squareRate });
  stepBy_(value, mean, root.copy_(square).sqrt_(), update);
}

/** All is made anew beside what there is, which it then is copied over. */
function updateCodes_(
  { value, gradient, mean, square }: Omit<Numbers, "mean" | "square"> & Record<"mean" | "square", Codes>,
  { elements }: Span,
  update: TileUpdate,
): void {
  const tables = update.tables!;
  const { decay, meanRate, squareRate, gradientScale } = ratesOf(update);
  const whole = { start: 0, elements };
  const { newValue, newMean, squares } = scope(() => {
    const [means, squares] = [dequantized(mean, tables.mean), dequantized(square, tables.square)];
    const [flatMeans, flatSquares] = [flatSpan(means, whole), flatSpan(squares, whole)];
    scope(() => {
      const wide = gradient.to({ dtype: value.dtype, copy: true }).mul_(gradientScale);
      flatMeans.lerp_(wide, meanRate);
      flatSquares.mul_(1 - squareRate).addcmul_(wide, wide, { value: squareRate });
    });
    const newValue = scope(() => stepBy_(value.mul(decay), flatMeans, flatSquares.sqrt(), update));
    return { newValue, newMean: quantized(means, tables.mean), squares };
  });
  const newSquare = quantized(squares, tables.square);
  value.copy_(newValue);
  copyMoment_(mean, newMean);
  copyMoment_(square, newSquare);
}

/** value -= rate * mean / root; the root is used up. */
function stepBy_(
  value: Tensor,
  mean: Tensor,
  root: Tensor,
  { options: { beta1, beta2, epsilon }, stepsDone, learningRate }: TileUpdate,
): Tensor {
  const meanCorrection = 1 - beta1 ** stepsDone;
  const squareCorrection = 1 - beta2 ** stepsDone;
  const denominator = root.div_(Math.sqrt(squareCorrection)).add_(epsilon);
  return value.addcdiv_(mean, denominator, { value: -learningRate / meanCorrection });
}

function ratesOf({ options: { beta1, beta2, weightDecay }, learningRate, gradientScale }: TileUpdate) {
  return {
    ...{ decay: 1 - learningRate * weightDecay, meanRate: 1 - beta1, squareRate: 1 - beta2 },
    gradientScale,
  };
}

function floats(moment: Moment): Tensor {
  if (isCodes(moment)) throw new Error("of a parameter's moments one is in 8 bits and the other is not");
  return moment;
}
