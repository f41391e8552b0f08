import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { learningRate, SCHEDULES, type Schedule, type ScheduleName, stepsOfRatio } from "./schedule.ts";

const golden = JSON.parse(
  readFileSync(new URL("../../../tests/golden/train/train.json", import.meta.url), "utf8"),
);

describe("schedules", () => {
  it("gives every rate of the golden run to the last digits", () => {
    const schedule: Schedule = { name: "cosine", peakRate: 5e-4, warmupSteps: 1, totalSteps: 10 };
    for (const { step, lr } of golden.steps) {
      expect(Math.abs(learningRate(step, schedule) - lr)).toBeLessThanOrEqual(1e-19);
    }
  });

  it.each<[ScheduleName, number[]]>([
    ["cosine", [0, 0.5, 1, 0.853553391, 0.5, 0.146446609]],
    ["linear", [0, 0.5, 1, 0.75, 0.5, 0.25]],
    ["constant", [0, 0.5, 1, 1, 1, 1]],
  ])("%s rises over the warm-up, then follows its curve", (name, expected) => {
    const schedule: Schedule = { name, peakRate: 1, warmupSteps: 2, totalSteps: 6 };
    expected.forEach((rate, index) => {
      expect(learningRate(index + 1, schedule)).toBeCloseTo(rate, 9);
    });
  });

  it("starts at the full rate without a warm-up", () => {
    for (const name of Object.keys(SCHEDULES) as ScheduleName[]) {
      expect(learningRate(1, { name, peakRate: 3e-4, warmupSteps: 0, totalSteps: 5 })).toBe(3e-4);
    }
  });

  it("stays between 0 and the peak, whatever the sizes", () => {
    const sizes = fc.record({
      name: fc.constantFrom(...(Object.keys(SCHEDULES) as ScheduleName[])),
      peakRate: fc.double({ min: 1e-8, max: 1, noNaN: true }),
      warmupSteps: fc.nat(50),
      totalSteps: fc.integer({ min: 1, max: 200 }),
    });
    fc.assert(
      fc.property(sizes, fc.integer({ min: 1, max: 400 }), (schedule, step) => {
        const rate = learningRate(step, schedule);
        expect(rate).toBeGreaterThanOrEqual(0);
        expect(rate).toBeLessThanOrEqual(schedule.peakRate);
      }),
    );
  });

  it("rounds a warm-up ratio up, as transformers does", () => {
    expect(stepsOfRatio(0.01, 80)).toBe(1);
    expect(stepsOfRatio(0.01, 101)).toBe(2);
    expect(stepsOfRatio(0, 80)).toBe(0);
  });
});
