import { expect, it } from "vitest";
import { stackedAreas } from "./areaCharts.ts";

const phases = ["start", "resume", "vision", "forward", "backward", "update", "save"].flatMap((name, index) =>
  Array<string>(index === 3 ? 60 : 1 + (index % 3)).fill(name),
);
const layers = [{ name: "weights", values: phases.map((_, at) => 10 + (at % 5)) }];

/** Each text of a chart with the box that it covers, at the width of a common sans-serif letter. */
function textsOf(chart: string): { words: string; left: number; right: number; y: number }[] {
  return [...chart.matchAll(/<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">([^<]*)</g)].map(
    ([, x, y, anchor, words]) => {
      const width = 7 * words!.length;
      const left = Number(x) - (anchor === "end" ? width : anchor === "middle" ? width / 2 : 0);
      return { words: words!, left, right: left + width, y: Number(y) };
    },
  );
}

it("no label of a stacked chart covers another, however short its phases are", () => {
  const texts = textsOf(
    stackedAreas({ title: "VRAM", layers, phases, limit: { name: "limit 22 GiB", value: 22 } }),
  );
  expect(texts.map(({ words }) => words)).toEqual(
    expect.arrayContaining([...new Set(phases), "limit 22 GiB"]),
  );
  for (const [index, one] of texts.entries())
    for (const other of texts.slice(index + 1)) {
      const isBeside = one.right <= other.left || other.right <= one.left;
      const isAbove = Math.abs(one.y - other.y) >= 12;
      expect(isBeside || isAbove, `${one.words} and ${other.words}`).toBe(true);
    }
});

it("the limit is a line across, at its own height: above what stays below it", () => {
  const heightOf = (value: number): number => {
    const chart = stackedAreas({ title: "VRAM", layers, phases, limit: { name: "limit", value } });
    return Number(/<path d="M56 ([\d.]+)H650" stroke="var\(--chart-limit/.exec(chart)![1]);
  };
  const top = Math.min(
    ...[
      ...stackedAreas({ title: "VRAM", layers, phases, limit: { name: "limit", value: 20 } }).matchAll(
        /L[\d.]+ ([\d.]+)/g,
      ),
    ].map(([, y]) => Number(y)),
  );
  expect(heightOf(20)).toBeLessThan(top);
  expect(stackedAreas({ title: "VRAM", layers, phases })).not.toContain("--chart-limit");
});

it("an outline goes over the layers, at its own height, and is interrupted where it has no value", () => {
  const values = phases.map((_, at) => (at === 5 ? undefined : 12));
  const chart = stackedAreas({ title: "VRAM", layers, phases, outline: { name: "planned", values } });
  const line = /<path d="(M[^"]*)" stroke="currentColor" stroke-width="1.5"/.exec(chart)![1]!;
  expect(
    line
      .split("M")
      .slice(1)
      .map((part) => part.split("L").length),
  ).toEqual([5, phases.length - 6]);
  expect(new Set([...line.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => y)).size).toBe(1);
  expect(chart).toContain(">planned<");
});
