import { expect, it } from "vitest";
import { scaleOf } from "./scale.ts";

it("places numbers between the ends, by differences or by ratios", () => {
  const linear = scaleOf([0, 5, 10], [0, 100], { isLogarithmic: false, ticks: 5 });
  expect(linear.place(5)).toBeCloseTo(50, 6);
  expect(linear.place(0)).toBeGreaterThan(0);
  const byRatio = scaleOf([1, 10, 100], [100, 0], { isLogarithmic: true, ticks: 5 });
  expect(byRatio.place(10)).toBeCloseTo(50, 6);
  expect(byRatio.place(100)).toBeLessThan(byRatio.place(1));
});

it("has round ticks of a unit, and few values of a logarithmic axis as ticks", () => {
  const mebi = 2 ** 20;
  const bytes = scaleOf([16 * mebi, 18 * mebi], [0, 100], { isLogarithmic: false, ticks: 3, unit: mebi });
  expect(bytes.ticks).toEqual([16 * mebi, 17 * mebi, 18 * mebi]);
  expect(scaleOf([4, 8, 8, 16], [0, 100], { isLogarithmic: true, ticks: 5 }).ticks).toEqual([4, 8, 16]);
});

it("places a single value in the middle, and words side by side", () => {
  expect(scaleOf([7, 7], [0, 100], { isLogarithmic: false, ticks: 5 }).place(7)).toBeCloseTo(50, 6);
  const words = scaleOf(["nf4", "bf16", "nf4"], [0, 100], { isLogarithmic: false, ticks: 5 });
  expect([words.ticks, words.place("bf16"), words.place("nf4")]).toEqual([["bf16", "nf4"], 25, 75]);
});
