/**
 * Loss scaling for float16, whose smallest numbers are too large for many a gradient: gradients are computed of a multiple of the loss and
 * divided again by the optimizer's step. Where they overflow, that step is skipped and the scale halved; after many good ones it doubles.
 */
import type { DType } from "../../torch/dtypes.ts";

/** Plain data, saved with a run. */
export interface LossScale {
  scale: number;
  /** Since it last changed. */
  goodSteps: number;
  /** Of the whole run: steps in which the factors stayed as they were. */
  skippedSteps: number;
}

/** Lower than torch begins with: the gradient of a single label is as large as the scale, and float16 ends at 65504. */
const FIRST_SCALE = 2 ** 13;
/** As torch's GradScaler has it. */
const GROW_AFTER_STEPS = 2000;
/** Gradients that overflow without any scale are no matter of it. */
const LEAST_SCALE = 1;

/** What a run begins with; only float16 needs it. */
export function firstLossScale(dtype: DType, scale = FIRST_SCALE): LossScale | undefined {
  return dtype === "float16" ? { scale, goodSteps: 0, skippedSteps: 0 } : undefined;
}

/** Whether a norm of gradients that isn't finite is the scale's doing, as far as one can tell: a smaller one may help. */
export function isOverflow(norm: number, { scale }: LossScale): boolean {
  return !Number.isFinite(norm) && scale > LEAST_SCALE;
}

/** The scale after a step that was done. */
export function afterGoodStep({ scale, goodSteps, skippedSteps }: LossScale): LossScale {
  return goodSteps + 1 === GROW_AFTER_STEPS
    ? { scale: 2 * scale, goodSteps: 0, skippedSteps }
    : { scale, goodSteps: goodSteps + 1, skippedSteps };
}

/** The scale after a step that was skipped. */
export function afterOverflow({ scale, skippedSteps }: LossScale): LossScale {
  return { scale: Math.max(LEAST_SCALE, scale / 2), goodSteps: 0, skippedSteps: skippedSteps + 1 };
}
