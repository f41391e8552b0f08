/**
 * AdamW's update of one tile of a parameter, done wholly or not at all: whatever allocates comes before anything changes, so that an update
 * that ran out of memory goes on where it stood.
 */
import { whereOut } from "../torch/ops.gen.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { AdamWOptions } from "./adamW.ts";
import { type Codes, dequantized, quantized } from "./eightBit.ts";
import { type CodeTables, flatSpan, isCodes, type Moment, type Moments, type Span } from "./moments.ts";
import type { Parameter } from "./optimizer.ts";
import type { Gate } from "./updateGate.ts";

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
  gate: Gate;
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

/**
 * In place, but for the root, for which there is room before. Behind a closed gate the mean goes towards itself, nothing is added to the
 * square, and the root is infinite.
 */
function updateFloats_({ value, gradient, mean, square }: Numbers, update: TileUpdate): void {
  const { isOpen, openRatio, scale, decay, squareKeep } = update.gate;
  const { meanRate, squareRate } = ratesOf(update);
  const wide = gradient.to({ dtype: value.dtype }); // itself where gradients have the factors' precision
  const root = square.emptyLike();
  whereOut(isOpen, wide.mul_(scale), mean, { out: wide });
  value.mul_(decay);
  mean.lerp_(wide, meanRate);
  wide.mul_(openRatio);
  square.mul_(squareKeep).addcmul_(wide, wide, { value: squareRate });
  stepBy_(value, mean, root.copy_(square).sqrt_(), update);
}

/** All is made anew beside what there is, which it then is copied over; behind a closed gate, what there is. */
function updateCodes_(
  { value, gradient, mean, square }: Omit<Numbers, "mean" | "square"> & Record<"mean" | "square", Codes>,
  { elements }: Span,
  update: TileUpdate,
): void {
  const tables = update.tables!;
  const { isOpen, scale, decay, squareKeep } = update.gate;
  const { meanRate, squareRate } = ratesOf(update);
  const whole = { start: 0, elements };
  const { newValue, newMean, squares } = scope(() => {
    const [means, squares] = [dequantized(mean, tables.mean), dequantized(square, tables.square)];
    const [flatMeans, flatSquares] = [flatSpan(means, whole), flatSpan(squares, whole)];
    scope(() => {
      const wide = gradient.to({ dtype: value.dtype, copy: true }).mul_(scale);
      flatMeans.lerp_(wide, meanRate);
      flatSquares.mul_(squareKeep).addcmul_(wide, wide, { value: squareRate });
    });
    const newValue = scope(() => stepBy_(value.mul(decay), flatMeans, flatSquares.sqrt(), update));
    return { newValue, newMean: quantized(means, tables.mean), squares };
  });
  const newSquare = quantized(squares, tables.square);
  const settle = (made: Tensor, before: Tensor): void => void whereOut(isOpen, made, before, { out: before });
  settle(newValue, value);
  for (const [made, before] of [
    [newMean, mean],
    [newSquare, square],
  ] as const) {
    settle(made.codes, before.codes);
    settle(made.absmax, before.absmax);
  }
}

/** value -= rate * mean / root; the root is used up. */
function stepBy_(
  value: Tensor,
  mean: Tensor,
  root: Tensor,
  { options: { beta1, beta2 }, stepsDone, learningRate, gate }: TileUpdate,
): Tensor {
  const meanCorrection = 1 - beta1 ** stepsDone;
  const squareCorrection = 1 - beta2 ** stepsDone;
  const denominator = root.div_(Math.sqrt(squareCorrection)).add_(gate.epsilon);
  return value.addcdiv_(mean, denominator, { value: -learningRate / meanCorrection });
}

function ratesOf({ options: { beta1, beta2 } }: TileUpdate) {
  return { meanRate: 1 - beta1, squareRate: 1 - beta2 };
}

function floats(moment: Moment): Tensor {
  if (isCodes(moment)) throw new Error("of a parameter's moments one is in 8 bits and the other is not");
  return moment;
}
