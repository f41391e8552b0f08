import fc from "fast-check";
import { expect, it } from "vitest";
import { formatTick, type LineChart, lineChart, niceTicks, type Point, thinned } from "./charts.ts";

const chartOf = (points: readonly Point[], more: Partial<LineChart> = {}): string =>
  lineChart({
    title: "Loss",
    x: { label: "step", whole: true },
    y: { label: "loss" },
    series: [{ name: "each step", points }],
    ...more,
  });

/** The points of every line, in the chart's pixels. */
function linesOf(svg: string): Point[][] {
  const paths = [...svg.matchAll(/<path d="(M[^"]+)" fill="none" stroke="[^"]+" stroke-width="2"/g)];
  return paths.flatMap(([, commands]) =>
    commands!
      .split("M")
      .filter(Boolean)
      .map((piece) => piece.split("L").map((pair) => pair.split(" ").map(Number) as unknown as Point)),
  );
}

it("draws the first point at the left, the last at the right, and greater values higher", () => {
  const [line] = linesOf(chartOf([[1, 4], [2, 2], [3, 1]])); // biome-ignore format: pairs
  expect(line!.map(([x]) => x)).toEqual([62, 245, 428]);
  expect(line![0]![1]).toBeLessThan(line![1]![1]);
  expect(line![1]![1]).toBeLessThan(line![2]![1]);
});

it("begins the y axis at zero unless asked for the data's range", () => {
  const points = [[1, 100], [2, 101]] as const; // biome-ignore format: pairs
  expect(chartOf(points)).toContain(">0</text>");
  expect(chartOf(points, { yFrom: "data" })).not.toContain(">0</text>");
});

it("interrupts a line where a value is not finite", () => {
  const svg = chartOf([[1, 1], [2, 2], [3, Number.NaN], [4, 3], [5, 4], [6, Number.POSITIVE_INFINITY], [7, 1]]); // biome-ignore format: pairs
  expect(linesOf(svg).map(({ length }) => length)).toEqual([2, 2]);
  expect(svg).not.toMatch(/NaN|Infinity/);
  expect(svg.match(/<circle/g)).toHaveLength(1); // the last point stands alone
});

it("keeps a limit inside the frame, and names it", () => {
  const svg = chartOf([[1, 10], [2, 20]], { limit: { name: "budget", value: 2048 } }); // biome-ignore format: pairs
  const [, y] = /<path d="M62 ([\d.]+)H428" stroke="var\(--chart-limit/.exec(svg)!;
  expect(Number(y)).toBeGreaterThanOrEqual(58);
  expect(Number(y)).toBeLessThan(222);
  expect(svg).toContain(">budget</text>");
});

it("draws a frame for series without any point", () => {
  const svg = chartOf([]);
  expect(linesOf(svg)).toEqual([]);
  expect(svg).not.toMatch(/NaN|Infinity/);
});

it("escapes what it is told to write", () => {
  expect(chartOf([[1, 1]], { title: 'a < b & "c"' })).toContain("a &lt; b &amp; &quot;c&quot;");
});

it("takes any finite points into the frame", () => {
  const number = fc.double({ min: -1e9, max: 1e9, noNaN: true });
  fc.assert(
    fc.property(fc.array(fc.tuple(number, number), { maxLength: 30 }), (unordered) => {
      const points = unordered.toSorted(([a], [b]) => a - b);
      for (const [x, y] of linesOf(chartOf(points)).flat()) {
        expect(x).toBeGreaterThanOrEqual(61.99);
        expect(x).toBeLessThanOrEqual(428.01);
        expect(y).toBeGreaterThanOrEqual(57.99);
        expect(y).toBeLessThanOrEqual(222.01);
      }
    }),
    {
      // the least differences that there are
      examples: [-5e-324, 1e-323].map((least) => [
        [
          [0, least],
          [0, 0],
        ],
      ]),
    },
  );
});

it("chooses round ticks that span the range", () => {
  expect(niceTicks([0, 7.2], 5)).toEqual([0, 2, 4, 6, 8]);
  expect(niceTicks([0, 0.0012], 5)).toEqual([0, 0.0005, 0.001, 0.0015]);
  expect(niceTicks([1, 3], 6, 1)).toEqual([1, 2, 3]);
  const number = fc.double({ min: -1e6, max: 1e6, noNaN: true });
  fc.assert(
    fc.property(number, fc.double({ min: 1e-3, max: 1e6, noNaN: true }), (low, span) => {
      const ticks = niceTicks([low, low + span], 5);
      expect(ticks[0]!).toBeLessThanOrEqual(low + span * 1e-6);
      expect(ticks.at(-1)!).toBeGreaterThanOrEqual(low + span * (1 - 1e-6));
      expect(ticks.length).toBeLessThanOrEqual(7);
    }),
  );
});

it("thins a long line without losing its ends, its least or its greatest point", () => {
  const points = Array.from(
    { length: 10_000 },
    (_, x): Point => [x, Math.sin(x / 500) + (x === 6_543 ? 9 : 0)],
  );
  const fewer = thinned(points, 100);
  expect(fewer.length).toBeLessThanOrEqual(400);
  expect(fewer).toContainEqual(points[0]);
  expect(fewer).toContainEqual(points[6_543]);
  expect(fewer.at(-1)).toEqual(points.at(-1));
  expect(thinned(points.slice(0, 100), 100)).toHaveLength(100);
});

it("writes numbers as people do", () => {
  expect([0, 0.25, 1500, 5e-5, 2e7].map(formatTick)).toEqual(["0", "0.25", "1,500", "5e-5", "2e+7"]);
});
