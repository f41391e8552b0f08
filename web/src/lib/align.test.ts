import { expect, it } from "vitest";
import { aligned, heldAt } from "./align.ts";

it("curves share one axis, and keep their values at their own places", () => {
  const curves = [
    { xs: [1, 2, 4], values: [10, null, 40] },
    { xs: [2, 3], values: [20, 30] },
    { xs: [], values: [] },
  ];
  expect(aligned(curves)).toEqual({
    xs: [1, 2, 3, 4],
    values: [
      [10, null, null, 40],
      [null, 20, 30, null],
      [null, null, null, null],
    ],
  });
});

it("a value holds until the next", () => {
  expect(heldAt([0, 1, 2, 3, 9], { xs: [1, 3], values: [5, 7] })).toEqual([null, 5, 5, 7, 7]);
});
