/**
 * Loss scaling for float16, in which many gradients would round to zero. Gradients are computed of a multiple
 * of the loss, and the optimizer's step divides them again. If they overflow, that step is skipped and the
 * scale halved; after many good steps it doubles.
 */
import type { DType } from "../../torch/dtypes.ts";

/** Plain data, saved with a run. */
export interface LossScale {
  scale: number;
  /** Since it last changed. */
  goodSteps: number;
  /** Steps of the whole run in which the factors stayed as they were. */
  skippedSteps: number;
}

/**
 * Lower than torch's first scale: the gradient of a single label is as large as the scale, and float16 ends
 * at 65504.
 */
const FIRST_SCALE = 2 ** 13;
/** Steps after which torch's GradScaler doubles its scale. */
const GROW_AFTER_STEPS = 2000;
/** Gradients that overflow without any scale are no matter of it. */
const LEAST_SCALE = 1;

/** Returns the loss scale that a run begins with. Only float16 needs one. */
export function firstLossScale(dtype: DType, scale = FIRST_SCALE): LossScale | undefined {
  return dtype === "float16" ? { scale, goodSteps: 0, skippedSteps: 0 } : undefined;
}

/**
 * Returns whether a gradient norm that is not finite may come from the scale, so that a smaller scale may
 * help.
 */
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
