import { expect, it } from "vitest";
import type { MemoryTimeline } from "../../../src/server/ui/api.ts";
import { memoryCurves } from "./memoryCurves.ts";

const measured: MemoryTimeline = {
  ...{ axis: "allocation", x: [0, 1, 2], peakBytes: 30 },
  byCategory: { loss: [0, 5, 0], weights: [10, 10, 10], workspace: [0, 0, 0] },
  phases: [{ name: "forward", from: 0, to: 2 }],
};

it("stacks what holds something, what stays below what comes and goes, under the plan's outline", () => {
  const planned = { ...measured, x: [0, 1, 3], byCategory: { loss: [0, 6, 1], weights: [10, 10, 10] } };
  const { xs, series, phases, peak } = memoryCurves({ step: 1, measured, planned });
  expect(xs).toEqual([0, 1, 2, 3]);
  expect(series.map(({ label, values }) => [label, values])).toEqual([
    ["frozen base", [10, 10, 10, 10]],
    ["loss", [0, 5, 0, 0]],
    ["planned", [10, 16, 16, 11]],
  ]);
  expect(peak).toBe(1);
  expect(phases).toEqual([{ at: 0, label: "forward", tone: "muted", isLabelled: true }]);
});

it("shows the plan itself before anything is measured, and nothing without either", () => {
  expect(memoryCurves({ step: 1, planned: measured }).series.map(({ draw }) => draw)).toEqual([
    "area",
    "area",
  ]);
  expect(memoryCurves({ step: 1 }).series).toEqual([]);
});

it("stretches a plan that knows no times over the measured ones", () => {
  const timed: MemoryTimeline = { ...measured, axis: "ms", x: [100, 150, 200] };
  const { xs } = memoryCurves({ step: 1, measured: timed, planned: { ...measured, x: [0, 5, 10] } });
  expect(xs).toEqual([100, 150, 200]);
});
