import { expect, it } from "vitest";
import { noSteps } from "./steps.ts";
import { xAxisOf, xOfStep, xsOf } from "./xAxis.ts";

const steps = { ...noSteps(), step: [1, 2, 3], tokens: [10, 20, 30], stepMs: [5, 5, 10] };

it("has steps, tokens or time at each step", () => {
  expect(xsOf(steps, "step", { tokens: 60 })).toEqual([1, 2, 3]);
  expect(xsOf(steps, "tokens", { tokens: 60 })).toEqual([10, 30, 60]);
  expect(xsOf(steps, "time", { tokens: 60 })).toEqual([5, 10, 20]);
  expect([xAxisOf("time"), xAxisOf("toString"), xAxisOf(null)]).toEqual(["time", "step", "step"]);
});

it("finds the x of a step", () => {
  expect([0, 1, 2, 9].map((step) => xOfStep(steps, [10, 30, 60], step))).toEqual([0, 10, 30, 60]);
});
