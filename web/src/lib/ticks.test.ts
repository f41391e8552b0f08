import { describe, expect, it } from "vitest";
import { isLogarithmic, linearTicks, logTicks } from "./ticks.ts";

describe("ticks", () => {
  it("are round", () => {
    expect(linearTicks(0, 10, 5)).toEqual([0, 2, 4, 6, 8, 10]);
    expect(linearTicks(3.97, 4.21, 4).map((tick) => tick.toFixed(2))).toEqual(["4.00", "4.10", "4.20"]);
    expect(linearTicks(7, 7, 5)).toEqual([7]);
  });

  it("of a logarithmic axis are powers of ten, with 2 and 5 if there is room", () => {
    expect(logTicks(4, 64, 6)).toEqual([5, 10, 20, 50]);
    expect(logTicks(1e-5, 1e-2, 5)).toEqual([1e-5, 1e-4, 1e-3, 1e-2]);
  });
});

it.each([
  [[4, 8, 16, 32], true],
  [[5e-5, 1e-4, 1e-3], true],
  [[0, 1, 10], false],
  [[8, 16], false],
  [[0.1, 0.2, 0.3], false],
  [[1000, 2000, 3000], false],
])("%j is spread by ratios: %s", (values, expected) => expect(isLogarithmic(values)).toBe(expected));
