import { expect, it } from "vitest";
import type { SweepDetail, Trial } from "../../../../src/server/ui/api.ts";
import { metricOf, metricsOf, peakOf, sortedByMetric } from "./trials.ts";

function trial(number: number, more: Partial<Trial>): Trial {
  return {
    ...{ trial: number, options: {}, state: "finished", evalLoss: null, metrics: {}, plannedPeakBytes: null },
    ...{
      peakBytes: null,
      adapter: null,
      run: "",
      step: 0,
      totalSteps: null,
      bestStep: null,
      plannedStepMs: null,
      elapsedMs: 0,
      ...more,
    },
  };
}

const TRIALS = [
  trial(1, { evalLoss: 3, metrics: { anls: 0.5 } }),
  trial(2, { evalLoss: null, plannedPeakBytes: 7 }),
  trial(3, { evalLoss: 2, metrics: { anls: 0.9 }, plannedPeakBytes: 7, peakBytes: 8 }),
];
const order = (name: string, better: "lower" | "higher"): number[] =>
  sortedByMetric(TRIALS, { name, better }).map((each) => each.trial);

it("trials are sorted with the best first, and those without a value last", () => {
  expect(order("evalLoss", "lower")).toEqual([3, 1, 2]);
  expect(order("anls", "higher")).toEqual([3, 1, 2]);
  expect(order("evalLoss", "higher")).toEqual([1, 3, 2]);
});

it("a sweep's metrics are its own, the loss, and what its trials have; fewer errors are better", () => {
  const table = {
    metric: { name: "anls", better: "higher" },
    trials: [...TRIALS, trial(4, { metrics: { cer: 1 } })],
  };
  expect(metricsOf({ table } as unknown as SweepDetail)).toEqual([
    { name: "anls", better: "higher" },
    { name: "evalLoss", better: "lower" },
    { name: "cer", better: "lower" },
  ]);
});

it("memory is the measured peak, or the planned one before", () => {
  expect(TRIALS.map(peakOf)).toEqual([undefined, 7, 8]);
  expect(metricOf(TRIALS[1]!, { name: "evalLoss" })).toBeUndefined();
});
