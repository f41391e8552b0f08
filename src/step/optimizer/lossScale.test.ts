import { expect, it } from "vitest";
import { afterGoodStep, afterOverflow, firstLossScale, isOverflow, type LossScale } from "./lossScale.ts";

it("only float16 is scaled", () => {
  expect(firstLossScale("float16")).toMatchObject({ goodSteps: 0, skippedSteps: 0 });
  for (const dtype of ["float32", "bfloat16"] as const) expect(firstLossScale(dtype)).toBeUndefined();
});

it("halves with every overflow down to 1, where one is no longer the scale's doing", () => {
  let state: LossScale = { scale: 4, goodSteps: 7, skippedSteps: 0 };
  expect(isOverflow(Number.POSITIVE_INFINITY, state)).toBe(true);
  expect(isOverflow(Number.NaN, state)).toBe(true);
  expect(isOverflow(3, state)).toBe(false);
  for (const scale of [2, 1, 1]) {
    state = afterOverflow(state);
    expect(state).toMatchObject({ scale, goodSteps: 0 });
  }
  expect(state.skippedSteps).toBe(3);
  expect(isOverflow(Number.NaN, state)).toBe(false);
});

it("doubles after 2000 good steps", () => {
  let state: LossScale = { scale: 8, goodSteps: 0, skippedSteps: 2 };
  for (let step = 1; step < 2000; step++) state = afterGoodStep(state);
  expect(state).toEqual({ scale: 8, goodSteps: 1999, skippedSteps: 2 });
  expect(afterGoodStep(state)).toEqual({ scale: 16, goodSteps: 0, skippedSteps: 2 });
});
