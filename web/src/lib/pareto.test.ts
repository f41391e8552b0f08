import fc from "fast-check";
import { expect, it } from "vitest";
import { paretoFront } from "./pareto.ts";

it("has the cheapest, the best, and what lies between without being beaten", () => {
  const points = [
    { x: 10, y: 1 },
    { x: 5, y: 2 },
    { x: 7, y: 3 }, // beaten by the one before
    { x: 1, y: 9 },
    { x: 12, y: Number.NaN },
  ];
  expect(paretoFront(points)).toEqual([3, 1, 0]);
  expect(paretoFront(points, "higher")).toEqual([3]);
});

it("a point is in the front exactly if no other is better in one way and not worse in the other", () => {
  const point = fc.record({ x: fc.integer({ min: 0, max: 9 }), y: fc.integer({ min: 0, max: 9 }) });
  fc.assert(
    fc.property(fc.array(point), (points) => {
      const beaten = (one: { x: number; y: number }): boolean =>
        points.some((by) => by.x <= one.x && by.y <= one.y && (by.x < one.x || by.y < one.y));
      const expected = points.flatMap((one, index) => (beaten(one) ? [] : [index]));
      expect([...paretoFront(points)].sort((one, other) => one - other)).toEqual(expected);
    }),
  );
});
