import { expect, it } from "vitest";
import type { SweepTable, Trial } from "../runs/sweepTable.ts";
import { estimateOf } from "./estimate.ts";
import { rungsOf, singleRung } from "./halving.ts";

const trial = (number: number, more: Partial<Trial> = {}): Trial => ({
  ...{ trial: number, options: {}, state: "planned", evalLoss: null, metrics: {}, plannedPeakBytes: null },
  ...{ peakBytes: null, adapter: null, run: `trial-${number}`, step: 0, totalSteps: 100, bestStep: null },
  ...{ rung: 0, plannedStepMs: 10, elapsedMs: 0, ...more },
});
const table = (...trials: Trial[]): SweepTable => ({
  ...{ version: 1, strategy: "grid", metric: { name: "loss", better: "lower" }, varied: [], trials },
  ...{ best: null, reproduce: null, timesBy: null, isDone: false },
});

it("is the sum of the plans, shared by the devices", () => {
  const sweep = table(trial(1), trial(2, { plannedStepMs: 30 }), trial(3, { state: "too-large" }));
  expect(estimateOf(sweep, singleRung(2), 1)).toEqual({ leftMs: 4000, ratio: undefined });
  expect(estimateOf(sweep, singleRung(2), 2).leftMs).toBe(2000);
});

it("follows the measured time of the first trial", () => {
  const done = trial(1, { state: "finished", step: 100, elapsedMs: 3000 });
  const { leftMs, ratio } = estimateOf(table(done, trial(2, { plannedStepMs: 20 })), singleRung(2), 1);
  expect(ratio).toBe(3);
  expect(leftMs).toBe(6000);
});

it("counts the steps that are left of a trial that has begun", () => {
  const half = trial(1, { state: "running", step: 50, elapsedMs: 500 });
  expect(estimateOf(table(half), singleRung(1), 1).leftMs).toBe(500);
});

it("is unknown without any plan, and known after the first trial all the same", () => {
  const open = { plannedStepMs: null };
  expect(estimateOf(table(trial(1, open)), singleRung(1), 1).leftMs).toBe(Number.POSITIVE_INFINITY);
  const done = trial(1, { ...open, state: "finished", step: 100, elapsedMs: 700 });
  expect(estimateOf(table(done, trial(2, open)), singleRung(2), 1).leftMs).toBe(700);
});

it("counts the later rounds of halving for as many trials as go there", () => {
  const rungs = rungsOf(4, { factor: 2, leastSteps: 1, totalSteps: 100 }); // 4 to 25, 2 to 50, 1 to 100
  const all = [1, 2, 3, 4].map((number) => trial(number));
  expect(estimateOf(table(...all), rungs, 1).leftMs).toBe(10 * (4 * 25 + 2 * 25 + 1 * 50));
  const after = all.map((one, index) =>
    index < 2 ? { ...one, rung: 1, step: 25 } : { ...one, state: "finished" as const, step: 25 },
  );
  expect(estimateOf(table(...after), rungs, 1).leftMs).toBe(10 * (2 * 25 + 1 * 50));
});
