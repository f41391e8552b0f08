/**
 * Rotary positions: tables of cosines and sines. Sources: arXiv:2104.09864; the official modelling code for
 * scaled positions.
 */
import { fromArray } from "../../torch/create.ts";
import type { Device } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";

/** cos and sin of each position and frequency: (T, 1, 1, D/2) in the compute dtype. */
export interface Rope {
  cos: Tensor;
  sin: Tensor;
}

/**
 * How positions are scaled. linear: every position is divided by the factor. dynamic (NTK): a sample longer
 * than the model's positions gets a larger theta, which depends on the factor and the sample's length.
 */
export interface RopeScaling {
  kind: "linear" | "dynamic";
  factor: number;
}

/**
 * Positions of rows. values: (axes, T). With one axis, rows are counted. With three, they are placed in time,
 * height and width, so that rows of a picture have their places in it.
 */
export interface Positions {
  axes: 1 | 3;
  values: Int32Array;
}

/** Returns positions along one axis. */
export function oneAxis(values: Int32Array): Positions {
  return { axes: 1, values };
}

/** The part of a model's configuration that defines its rotary positions. */
export interface RopeForm {
  headDim: number;
  ropeTheta: number;
  ropeScaling?: RopeScaling;
  /** Tokens of the longest sample that the model was made for. */
  maxPositions: number;
  /** For positions with three axes, the axis that turns each pair of a head's dims: (D/2). */
  axisOfPair?: readonly number[];
}

/**
 * Computes tables in float32; cos, sin: (T, 1, 1, D/2). With one axis, positions are each sample's from 0 on,
 * or a part of one sample's. A sample's tables depend only on its own length, as in the official code with
 * one sample, and not on the samples packed beside it.
 */
export function ropeTables(
  { axes, values }: Positions,
  form: RopeForm,
  { dtype, device }: Pick<Tensor, "dtype"> & { device: Device },
): Rope {
  return scope(() => {
    const { ropeTheta, ropeScaling, headDim: D, maxPositions } = form;
    const position = axes === 1 ? columnOf(values, device) : placesOf(values, form, device);
    if (ropeScaling?.kind === "linear") position.div_(ropeScaling.factor);
    const frequencies = (theta: number): Tensor => fromArray(inverse(theta, D), [D / 2], { device });
    const angle = position.mul(frequencies(ropeTheta)); // (T, 1, 1, D/2)
    for (const { start, end } of ropeScaling?.kind === "dynamic" ? samplesIn(values) : []) {
      const tokens = values[end - 1]! + 1;
      if (tokens <= maxPositions) continue;
      const theta = ropeTheta * ntkGrowth(tokens / maxPositions, ropeScaling!.factor) ** (D / (D - 2));
      angle
        .narrow(0, start, end - start)
        .copy_(position.narrow(0, start, end - start))
        .mul_(frequencies(theta));
    }
    return { cos: angle.cos().to({ dtype }), sin: angle.sin().to({ dtype }) };
  });
}

/** Returns counted positions: (T, 1, 1, 1). */
function columnOf(values: Int32Array, device: Device): Tensor {
  return fromArray(new Float32Array(values), [values.length, 1, 1, 1], { device });
}

/** Returns the position that turns each pair, out of three: (T, 1, 1, D/2). */
function placesOf(
  values: Int32Array,
  { axisOfPair, ropeScaling, headDim }: RopeForm,
  device: Device,
): Tensor {
  if (axisOfPair?.length !== headDim / 2 || ropeScaling)
    throw new Error("positions with three axes need an axis for each pair, and are not scaled");
  return scope(() => {
    const rows = values.length / 3;
    const byRow = Float32Array.from(values, (_, at) => values[(at % 3) * rows + Math.floor(at / 3)]!);
    const axes = fromArray(Int32Array.from(axisOfPair), [axisOfPair.length], { dtype: "int64", device });
    const places = fromArray(byRow, [rows, 3], { device }).indexSelect(1, axes); // contiguous, as kernels want it
    return places.view([rows, 1, 1, axisOfPair.length]);
  });
}

/** Returns the angle of each pair of a head's dims at position 1. */
function inverse(theta: number, D: number): Float32Array {
  return Float32Array.from({ length: D / 2 }, (_, pair) => 1 / theta ** ((2 * pair) / D));
}

/** Returns the growth of theta's base; excess: the sample's length / the model's positions. */
function ntkGrowth(excess: number, factor: number): number {
  return factor * excess - (factor - 1);
}

/** Yields the rows of each sample: within a sample, positions count up by one. */
function* samplesIn(positions: Int32Array): Generator<{ start: number; end: number }> {
  for (let start = 0, end = 1; end <= positions.length; end++) {
    if (end < positions.length && positions[end] === positions[end - 1]! + 1) continue;
    yield { start, end };
    start = end;
  }
}
