import { describe, expect, it } from "vitest";
import { UsageError } from "../../errors.ts";
import { TRIAL_SPECS } from "./space.ts";
import { gridOf, type RangeValues, valuesOf } from "./values.ts";

const read = (key: string, raw: unknown) => {
  const spec = TRIAL_SPECS.find((known) => known.key === key)!;
  return valuesOf(raw, spec, `--${key}`);
};

describe("the values of an option", () => {
  it.each<[string, unknown, unknown[]]>([
    ["lora_r", [4, 8], [4, 8]],
    ["lora_r", "4,8", [4, 8]],
    ["lora_r", ["4", "8,16"], [4, 8, 16]],
    ["lora_r", { values: [4, "8"] }, [4, 8]],
    ["lora_alpha", ["1x", "2x", 16], ["1x", "2x", 16]],
    ["lora_alpha", "1x,2x", ["1x", "2x"]],
    ["learning_rate", ["5e-5", 1e-4], [5e-5, 1e-4]],
    ["base", "bf16,nf4", ["bf16", "nf4"]],
    ["memory", "8GiB,12GiB", ["8GiB", "12GiB"]],
    ["pack", "true,false", [true, false]],
    ["pack", [true, false], [true, false]],
    ["model", ["a,b", "c"], ["a,b", "c"]],
    ["lora_targets", [["wqkv"], ["wqkv", "wo"]], [["wqkv"], ["wqkv", "wo"]]],
    ["lora_targets", ["wo", ["wqkv", "wo"]], ["wo", ["wqkv", "wo"]]],
    ["policy", ["a.json", "b.json"], ["a.json", "b.json"]],
  ])("of %s in %j are several", (key, raw, values) => {
    expect(read(key, raw)).toEqual({ kind: "list", values });
  });

  it.each<[string, unknown, unknown]>([
    ["lora_r", 8, 8],
    ["lora_r", ["8"], 8],
    ["learning_rate", "1e-4", 1e-4],
    ["lora_targets", ["wqkv", "wo"], ["wqkv", "wo"]],
    ["data", ["a.json", "b.json"], ["a.json", "b.json"]],
    ["model", ["a,b"], "a,b"],
    ["policy", { headGroups: 2 }, { headGroups: 2 }],
    ["early_stop", { patience: 3, min_delta: 0.1 }, { patience: 3, min_delta: 0.1 }],
    ["save_every", "10min", "10min"],
    ["pack", true, true],
    ["pack", "false", false],
  ])("of %s in %j are one", (key, raw, value) => {
    expect(read(key, raw)).toEqual({ kind: "fixed", value });
  });
});

describe("a range", () => {
  it.each<[string, unknown, Partial<RangeValues>]>([
    ["learning_rate", { log: [5e-5, 1e-3], count: 5 }, { scale: "log", from: 5e-5, to: 1e-3, count: 5 }],
    ["learning_rate", ["log:5e-5..1e-3:5"], { scale: "log", from: 5e-5, to: 1e-3, count: 5 }],
    ["learning_rate", "log:5e-5..1e-3", { scale: "log", count: undefined, isWhole: false }],
    ["lora_r", { linear: [4, 64] }, { scale: "linear", from: 4, to: 64, isWhole: true }],
  ])("of %s is %j", (key, raw, range) => {
    expect(read(key, raw)).toMatchObject({ kind: "range", ...range });
  });

  const grid = (key: string, raw: unknown) => gridOf(read(key, raw) as RangeValues & { count: number });

  it("has numbers that people can type, with exact ends", () => {
    expect(grid("learning_rate", { log: [5e-5, 1e-3], count: 5 })).toEqual([
      5e-5, 1.06e-4, 2.24e-4, 4.73e-4, 1e-3,
    ]);
    expect(grid("learning_rate", "linear:0..1e-3:3")).toEqual([0, 5e-4, 1e-3]);
    expect(grid("lora_r", "log:4..32:4")).toEqual([4, 8, 16, 32]);
  });

  it("repeats no number where whole numbers are rarer than values", () => {
    expect(grid("lora_r", "linear:1..3:9")).toEqual([1, 2, 3]);
  });

  it.each<[unknown, string]>([
    [{ log: [1e-3, 5e-5], count: 2 }, "rises from its first number"],
    [{ log: [0, 1e-3], count: 2 }, "begins above 0"],
    [{ log: [5e-5], count: 2 }, "two numbers"],
    [{ log: [5e-5, 1e-3], count: 1 }, "a count of 2 or more"],
    [{ log: [5e-5, 1e-3], linear: [0, 1] }, "two numbers"],
    [{ min: 5e-5, max: 1e-3 }, "min, max is not a kind of range"],
    ["uniform:0..1:3", "uniform is not a kind of range"],
    ["log:a..b:3", "two numbers"],
    [[], "the list is empty"],
    [{ values: 3 }, "values takes a list"],
  ])("%j is none", (raw, words) => {
    expect(() => read("learning_rate", raw)).toThrow(UsageError);
    expect(() => read("learning_rate", raw)).toThrow(words);
  });
});
