/** The x axes that a run's curves can have: steps, tokens or time. */
import type { RunSummary, StepColumns } from "../../../src/server/ui/api.ts";
import type { Axis } from "../parts/chart/model.ts";
import { sumsOf } from "./steps.ts";

export const X_AXES = {
  step: { label: "step", kind: "count" },
  tokens: { label: "tokens", kind: "count" },
  time: { label: "time", kind: "ms" },
} as const satisfies Record<string, Axis>;

export type XAxis = keyof typeof X_AXES;

export function xAxisOf(text: string | null): XAxis {
  return text !== null && Object.hasOwn(X_AXES, text) ? (text as XAxis) : "step";
}

/**
 * Returns the x of each step. Time is the time that steps took, without evaluations and pauses. Sums of a run
 * whose log is still being read are not used, because they are of a part of it.
 */
export function xsOf(
  steps: StepColumns,
  axis: XAxis,
  { tokens, elapsedMs, isPartial }: Pick<RunSummary, "tokens" | "elapsedMs" | "isPartial">,
): number[] {
  if (axis === "step") return steps.step;
  const [column, total] =
    axis === "tokens" ? (["tokens", tokens] as const) : (["stepMs", elapsedMs] as const);
  return sumsOf(steps, column, isPartial ? undefined : total);
}

/** Returns the x of a step that has been done: that of the last step up to it. */
export function xOfStep(steps: StepColumns, xs: readonly number[], step: number): number {
  let [low, high] = [0, steps.step.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps.step[middle]! <= step) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? 0 : xs[low - 1]!;
}
