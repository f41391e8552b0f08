/**
 * AdamW's update of one tile of a parameter, done wholly or not at all. Whatever allocates comes before
 * anything changes, so that an update that ran out of memory continues where it stopped.
 */
import { fused } from "../../torch/kernels/kernels.ts";
import type { AdamWNumbers } from "../../torch/kernels/optimizer.ts";
import { whereOut } from "../../torch/ops.gen.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import type { AdamWOptions } from "./adamW.ts";
import { type Codes, dequantized, quantized } from "./eightBit.ts";
import { type CodeTables, flatSpan, isCodes, type Moment, type Moments, type Span } from "./moments.ts";
import type { Gate } from "./updateGate.ts";

export interface Parameter {
  name: string;
  /** float32; in the host pool where there is a copy. */
  value: Tensor;
  /** Copy that steps read instead of the value: on the device, in the computing dtype. */
  copy?: Tensor | undefined;
  gradient: Tensor;
}

/** Elements of one parameter. */
export interface Tile {
  parameter: Parameter;
  moments: Moments;
  span: Span;
  /** Elements of all parameters up to its end. */
  endElements: number;
}

/** Tensors that an update changes of a tile, beside factors that are on the device. */
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

/** Updates a tile. The tile's gradients are zero afterwards. */
export function updateTile_({ parameter, span }: Tile, state: TileState, update: TileUpdate): void {
  scope(() => {
    const value = state.value ?? flatSpan(parameter.value, span);
    const gradient = flatSpan(parameter.gradient, span);
    const { mean, square } = state;
    if (isCodes(mean) && isCodes(square)) {
      updateCodes_({ value, gradient, mean, square }, span, update);
      gradient.zero_();
    } else {
      fused.adamW([value, gradient, floats(mean), floats(square), update.gate.scale], numbersOf(update));
    }
    if (parameter.copy) flatSpan(parameter.copy, span).copy_(value);
  });
}

/** Returns the numbers of this step, with the corrections of means that began at zero. */
function numbersOf({ options, stepsDone, learningRate }: TileUpdate): AdamWNumbers {
  const { beta1, beta2, epsilon, weightDecay } = options;
  return {
    decay: 1 - learningRate * weightDecay,
    ...{ meanRate: 1 - beta1, squareRate: 1 - beta2, squareKeep: beta2 },
    rootFactor: 1 / Math.sqrt(1 - beta2 ** stepsDone),
    epsilon,
    stepSize: learningRate / (1 - beta1 ** stepsDone),
  };
}

interface CodedNumbers {
  value: Tensor;
  gradient: Tensor;
  mean: Codes;
  square: Codes;
}

/**
 * Makes everything anew, then copies it over the old values; behind a closed gate the copy is of the old
 * values.
 */
function updateCodes_(
  { value, gradient, mean, square }: CodedNumbers,
  { elements }: Span,
  update: TileUpdate,
): void {
  const tables = update.tables!;
  const { isOpen, scale } = update.gate;
  const whole = { start: 0, elements };
  const { newValue, newMean, squares } = scope(() => {
    const [means, squares] = [dequantized(mean, tables.mean), dequantized(square, tables.square)];
    const newValue = value.clone();
    scope(() => {
      const moments = [flatSpan(means, whole), flatSpan(squares, whole)] as const;
      fused.adamW([newValue, gradient.clone(), ...moments, scale], numbersOf(update));
    });
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

function floats(moment: Moment): Tensor {
  if (isCodes(moment)) throw new Error("of a parameter's moments one is in 8 bits and the other is not");
  return moment;
}
