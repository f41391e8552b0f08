import { describe, expect, it } from "vitest";
import { KINDS } from "./kinds.ts";
import { lastKnown, spreadIndices, stackedValues } from "./model.ts";

describe("a chart's data", () => {
  it("stacks areas and leaves other series as they are", () => {
    const stacked = stackedValues([
      { label: "a", tone: "1", draw: "area", values: [1, 2, null] },
      { label: "line", tone: "2", values: [9, 9, 9] },
      { label: "b", tone: "3", draw: "area", values: [10, null, 30] },
      { label: "c", tone: "4", draw: "area", values: [100, 200, 300] },
    ]);
    expect(stacked).toEqual([
      [1, 2, null],
      [9, 9, 9],
      [11, 2, 30],
      [111, 202, 330],
    ]);
  });

  it("knows the last value up to a place", () => {
    expect([0, 1, 2, 9].map((index) => lastKnown([null, 5, null], index))).toEqual([undefined, 5, 5, 5]);
  });

  it("spreads indices with both ends, each once", () => {
    expect(spreadIndices(3, 10)).toEqual([0, 1, 2]);
    const spread = spreadIndices(10_000, 200);
    expect(spread).toHaveLength(200);
    expect([spread[0], spread.at(-1), new Set(spread).size]).toEqual([0, 9_999, 200]);
  });
});

describe("ticks", () => {
  it("have as many decimals as their distance needs", () => {
    expect([0, 0.4, 0.45].map((value) => KINDS.number.tick(value, 0.05))).toEqual(["0", "0.40", "0.45"]);
    expect(KINDS.number.tick(2_000, 500)).toBe("2,000");
    expect([5e-5, 1e-3].map((value) => KINDS.number.tick(value, 1e-5))).toEqual(["5e-5", "1e-3"]);
    expect(KINDS.bytes.tick(2 * 2 ** 30)).toBe("2 GiB");
    expect(KINDS.bytes.tick(1.5 * 2 ** 30)).toBe("1.5 GiB");
    expect(KINDS.count.tick(1.5, 0.5)).toBe("");
  });
});
