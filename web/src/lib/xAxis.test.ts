import { expect, it } from "vitest";
import { noSteps } from "./steps.ts";
import { xAxisOf, xOfStep, xsOf } from "./xAxis.ts";

const steps = { ...noSteps(), step: [1, 2, 3], tokens: [10, 20, 30], stepMs: [5, 5, 10] };

const sums = { tokens: 60, elapsedMs: 20 };

it("has steps, tokens or time at each step", () => {
  expect(xsOf(steps, "step", sums)).toEqual([1, 2, 3]);
  expect(xsOf(steps, "tokens", sums)).toEqual([10, 30, 60]);
  expect(xsOf(steps, "time", sums)).toEqual([5, 10, 20]);
  expect([xAxisOf("time"), xAxisOf("toString"), xAxisOf(null)]).toEqual(["time", "step", "step"]);
});

it("ends at the run's own sums where steps were left out, unless the sums are of a part of the log", () => {
  const thin = { ...noSteps(), step: [1, 5], tokens: [10, 10], stepMs: [5, 5] };
  const run = { tokens: 100, elapsedMs: 50 };
  expect(xsOf(thin, "tokens", run)).toEqual([20, 100]);
  expect(xsOf(thin, "time", run)).toEqual([10, 50]);
  expect(xsOf(thin, "time", { ...run, isPartial: true })).toEqual([5, 25]);
});

it("finds the x of a step", () => {
  expect([0, 1, 2, 9].map((step) => xOfStep(steps, [10, 30, 60], step))).toEqual([0, 10, 30, 60]);
});
