import { describe, expect, it } from "vitest";
import type { StepColumns } from "../../../src/server/ui/api.ts";
import { appendSteps, noSteps, sumsOf, thinned } from "./steps.ts";

function steps(from: number, to: number, loss = (step: number): number | null => 1 / step): StepColumns {
  const step = Array.from({ length: to - from + 1 }, (_, at) => from + at);
  const same = (value: number): number[] => step.map(() => value);
  return {
    ...noSteps(),
    ...{ step, loss: step.map(loss), gradNorm: same(1), lr: same(1e-4), tokens: step.map((at) => 100 + at) },
    ...{ tokensPerSecond: same(5), stepMs: same(10), dataWaitRatio: same(0), epoch: same(0) },
    ...{ peakBytes: same(9), hostPeakBytes: same(8), plannedPeakBytes: same(9), reservedPeakBytes: same(7) },
    peakByCategory: { weights: same(4) },
  };
}

describe("the history of steps", () => {
  it("grows at its end, and leaves out what it has", () => {
    const history = appendSteps(appendSteps(noSteps(), steps(1, 5)), steps(4, 8));
    expect(history.step).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(history.loss).toEqual(steps(1, 8).loss);
    expect(history.peakByCategory).toEqual({ weights: [4, 4, 4, 4, 4, 4, 4, 4] });
    expect(appendSteps(history, steps(1, 8))).toBe(history);
  });

  it("has zeros where a category held nothing yet", () => {
    const later = { ...steps(3, 4), peakByCategory: { loss: [2, 2] } };
    expect(appendSteps(steps(1, 2), later).peakByCategory).toEqual({
      weights: [4, 4, 0, 0],
      loss: [0, 0, 2, 2],
    });
  });

  it("keeps both ends and the extreme losses when it is thinned", () => {
    const history = steps(1, 1000, (step) =>
      step === 500 ? 99 : step === 501 ? -99 : step === 502 ? null : 1,
    );
    const thin = thinned(history, 100);
    expect(thin.step.length).toBeLessThanOrEqual(102);
    expect(thin.step).toEqual(expect.arrayContaining([1, 500, 501, 1000]));
    expect(thin.tokens[thin.step.indexOf(500)]).toBe(600);
    expect(thin.peakByCategory.weights).toHaveLength(thin.step.length);
  });

  it("is thinned when it is twice as long as allowed", () => {
    expect(appendSteps(steps(1, 15), steps(16, 21), 10).step.length).toBeLessThanOrEqual(12);
    expect(appendSteps(steps(1, 15), steps(16, 20), 10).step).toHaveLength(20);
  });

  it("sums exactly if it is whole, and nearly if steps were left out", () => {
    const whole = steps(1, 100);
    const sums = sumsOf(whole, "tokens");
    expect(sums.slice(0, 2)).toEqual([101, 203]);
    const total = sums.at(-1)!;
    const some = [0, 9, 10, 50, 99];
    const pick = <T>(values: T[]): T[] => some.map((at) => values[at]!);
    const estimated = sumsOf(
      { step: pick(whole.step), tokens: pick(whole.tokens), stepMs: [] },
      "tokens",
      total,
    );
    for (const [at, index] of some.entries()) expect(estimated[at]! / sums[index]!).toBeCloseTo(1, 1);
    expect(estimated.at(-1)).toBeCloseTo(total, 6);
  });
});
