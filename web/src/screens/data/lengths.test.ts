import { expect, it } from "vitest";
import { binsOf, type Lengths, quantile, tooLong } from "./lengths.ts";

const LENGTHS: Lengths = [
  [100, 3],
  [101, 1],
  [2000, 5],
  [4097, 1],
];

it("a sample of exactly max_length tokens fits", () => {
  expect(tooLong(LENGTHS, 4097)).toBe(0);
  expect(tooLong(LENGTHS, 4096)).toBe(1);
  expect(tooLong(LENGTHS, 100)).toBe(7);
  expect(tooLong([], 1)).toBe(0);
});

it("bins are equal and round, hold every sample once, and reach the longest", () => {
  const bins = binsOf(LENGTHS, 4097);
  expect(bins.reduce((sum, { samples }) => sum + samples, 0)).toBe(10);
  expect(new Set(bins.map(({ from, to }) => to - from))).toEqual(new Set([100]));
  expect(bins.find(({ from }) => from === 100)?.samples).toBe(4);
  expect(bins.at(-1)!.to).toBeGreaterThan(4097);
  expect(binsOf([[1, 1]], 1).reduce((sum, { samples }) => sum + samples, 0)).toBe(1);
});

it("the median is a length that half of the samples do not pass", () => {
  expect(quantile(LENGTHS, 0.5)).toBe(2000);
  expect(quantile(LENGTHS, 0)).toBe(100);
  expect(quantile(LENGTHS, 1)).toBe(4097);
  expect(quantile([], 0.5)).toBeUndefined();
});
