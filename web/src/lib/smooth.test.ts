import { describe, expect, it } from "vitest";
import { smoothed, spanOf } from "./smooth.ts";

const steps = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);

describe("an exponential moving average", () => {
  it("leaves a constant and a span of 1 as they are", () => {
    expect(smoothed(steps(4), [3, 3, 3, 3], 50)).toEqual(
      [3, 3, 3, 3].map((value) => expect.closeTo(value, 9)),
    );
    expect(smoothed(steps(3), [3, 1, 2], 1)).toEqual([3, 1, 2]);
  });

  it("begins with the first value, and weighs newer values more", () => {
    const [first, second] = smoothed(steps(2), [10, 0], 2);
    expect(first).toBe(10);
    expect(second).toBeCloseTo(10 / 3, 9); // weights 1/4 and 1/2
  });

  it("forgets by steps and not by points, so a curve with fewer points looks the same", () => {
    const level = (at: number): number => (at <= 500 ? 1 : 5);
    const every = steps(1000);
    const tenth = every.filter((step) => step % 10 === 0);
    const dense = smoothed(every, every.map(level), 100);
    const sparse = smoothed(tenth, tenth.map(level), 100);
    expect(sparse.at(-1)).toBeCloseTo(dense.at(-1)!, 1);
    expect(sparse[60]).toBeGreaterThan(1.2);
  });

  it("passes over values that are missing", () => {
    expect(smoothed(steps(3), [1, null, 1], 10)).toEqual([1, null, expect.closeTo(1, 9)]);
  });

  it("has spans from 1 to 1000", () => expect([0, 33.4, 66.7, 100].map(spanOf)).toEqual([1, 10, 100, 1000]));
});
