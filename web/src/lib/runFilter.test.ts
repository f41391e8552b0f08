import { describe, expect, it } from "vitest";
import type { RunSummary } from "../../../src/server/ui/api.ts";
import { matchingRuns, sortedRuns } from "./runFilter.ts";

function run(path: string, more: Partial<RunSummary> = {}): RunSummary {
  return {
    ...{
      id: path,
      path,
      name: path,
      state: "finished",
      step: 1,
      startedAtMs: 0,
      updatedAtMs: 0,
      options: {},
    },
    ...{ lossSparkline: [], tokens: 0, elapsedMs: 0, stepDowns: 0, ...more },
  };
}

const RUNS = [
  run("pages/r10", { options: { lora_r: 16, base: "nf4" }, lastLoss: 2, updatedAtMs: 5 }),
  run("pages/r9", { options: { lora_r: 1 }, state: "crashed", lastLoss: null, updatedAtMs: 9 }),
  run("other", { state: "running", lastLoss: 1, sweep: { id: "S1", trial: 2 } }),
];
const names = (runs: RunSummary[]): string[] => runs.map(({ path }) => path);

describe("runs", () => {
  it.each([
    ["", ["pages/r10", "pages/r9", "other"]],
    ["PAGES", ["pages/r10", "pages/r9"]],
    ["pages crash", ["pages/r9"]],
    ["lora_r=1", ["pages/r9"]],
    ["lora-r=16 base=nf", ["pages/r10"]],
    ["sweep:s1", ["other"]],
    ["nothing", []],
  ])("are found by %j", (words, found) => expect(names(matchingRuns(RUNS, words))).toEqual(found));

  it("are sorted in both directions, with those without a value last", () => {
    const sort = (key: "name" | "loss" | "age", isDescending: boolean): string[] =>
      names(sortedRuns(RUNS, { key, isDescending }));
    expect(sort("name", false)).toEqual(["other", "pages/r9", "pages/r10"]);
    expect(sort("loss", false)).toEqual(["other", "pages/r10", "pages/r9"]);
    expect(sort("loss", true)).toEqual(["pages/r10", "other", "pages/r9"]);
    expect(sort("age", false)).toEqual(["pages/r9", "pages/r10", "other"]);
  });
});
