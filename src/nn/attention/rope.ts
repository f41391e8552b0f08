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

/** The part of a model's configuration that defines its rotary positions. */
export interface RopeForm {
  headDim: number;
  ropeTheta: number;
  ropeScaling?: RopeScaling;
  /** Tokens of the longest sample that the model was made for. */
  maxPositions: number;
}

/**
 * Computes tables in float32. positions: (T), each sample's from 0 on, or a part of one sample's; cos, sin:
 * (T, 1, 1, D/2). A sample's tables depend only on its own length, as in the official code with one sample,
 * and not on the samples packed beside it.
 */
export function ropeTables(
  positions: Int32Array,
  form: RopeForm,
  { dtype, device }: Pick<Tensor, "dtype"> & { device: Device },
): Rope {
  return scope(() => {
    const { ropeTheta, ropeScaling, headDim: D, maxPositions } = form;
    const position = fromArray(new Float32Array(positions), [positions.length, 1, 1, 1], { device });
    if (ropeScaling?.kind === "linear") position.div_(ropeScaling.factor);
    const frequencies = (theta: number): Tensor => fromArray(inverse(theta, D), [D / 2], { device });
    const angle = position.mul(frequencies(ropeTheta)); // (T, 1, 1, D/2)
    for (const { start, end } of ropeScaling?.kind === "dynamic" ? samplesIn(positions) : []) {
      const tokens = positions[end - 1]! + 1;
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
