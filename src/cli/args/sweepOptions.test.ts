import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { UsageError } from "../../errors.ts";
import { readSweepOptions, type SweepOptions, SweepOwn } from "../../sweep/options.ts";
import { gridTrials, randomTrials } from "../../sweep/space/draw.ts";
import { TRIAL_SPECS } from "../../sweep/space/space.ts";
import { readCommand } from "./readCommand.ts";

const folder = mkdtempSync(join(tmpdir(), "sweep-options-"));
afterAll(() => rmSync(folder, { recursive: true }));

const SWEPT_KEYS = [...TRIAL_SPECS.map(({ key }) => key), ...Object.keys(SweepOwn.shape)];
const ALWAYS = ["--model", "m", "--data", "d.jsonl", "--val-size", "0.1"];

function optionsOf(argv: string[], yaml?: string): SweepOptions {
  const file = join(folder, "sweep.yaml");
  if (yaml !== undefined) writeFileSync(file, yaml);
  const request = readCommand("sweep", yaml === undefined ? argv : ["--config", file, ...argv], 100);
  return (request as { options: SweepOptions }).options;
}

function errorOf(argv: string[], yaml?: string): UsageError {
  try {
    optionsOf(argv, yaml);
  } catch (thrown) {
    if (thrown instanceof UsageError) return thrown;
    throw thrown;
  }
  throw new Error("there was no error");
}

describe("options of a sweep", () => {
  it("come from flags with several values", () => {
    const flags = ["--lora-r", "4,8", "--learning-rate", "log:1e-4..1e-3:2", "--no-shuffle", "--pack"];
    const { space, strategy, output } = optionsOf([...ALWAYS, ...flags]);
    expect({ strategy, output }).toEqual({ strategy: "grid", output: "sweep" });
    expect(space.base).toEqual({ model: "m", data: ["d.jsonl"], val_size: 0.1, shuffle: false, pack: true });
    expect(gridTrials(space)).toEqual([
      { lora_r: 4, learning_rate: 1e-4 },
      { lora_r: 4, learning_rate: 1e-3 },
      { lora_r: 8, learning_rate: 1e-4 },
      { lora_r: 8, learning_rate: 1e-3 },
    ]);
  });

  it("come from a file, whose keys flags override", () => {
    const yaml = `
model: m
data: d.jsonl
eval_data: e.jsonl
lora_r: [4, 8]
lora_alpha: 2x
max_len: {values: [512, 1024]}
lora_targets: [[wqkv], [wqkv, wo]]
epochs: 2
method: halving
eta: 3
`;
    const { space, strategy, reduction_factor } = optionsOf(["--lora-r", "16", "--max-steps", "5"], yaml);
    expect({ strategy, reduction_factor }).toEqual({ strategy: "halving", reduction_factor: 3 });
    expect(space.base).toMatchObject({ lora_r: 16, lora_alpha: "2x", max_steps: 5, data: "d.jsonl" });
    expect(space.base).not.toHaveProperty("epochs");
    expect(space.axes.map(({ key }) => key)).toEqual(["max_length", "lora_targets"]);
  });

  it("try ranks, two alphas and four rates if nothing else differs", () => {
    const trials = gridTrials(optionsOf(ALWAYS).space);
    expect(trials).toHaveLength(32);
    expect(trials[0]).toEqual({ lora_r: 4, lora_alpha: 4, learning_rate: 5e-5 });
    expect(trials.at(-1)).toEqual({ lora_r: 32, lora_alpha: 64, learning_rate: 4e-4 });
    const ofRank = gridTrials(optionsOf([...ALWAYS, "--lora-r", "8", "--learning-rate", "1e-4"]).space);
    expect(ofRank).toEqual([{ lora_alpha: 8 }, { lora_alpha: 16 }]);
    expect(gridTrials(optionsOf([...ALWAYS, "--adapter", "a"]).space)).toHaveLength(4);
  });
});

describe("wrong options of a sweep", () => {
  it("of any kind are an error of the user, never a defect", () => {
    const value = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.constantFrom(
        "log:1..2:3",
        "linear:0..1",
        "1x",
        "4,,8",
        "log:..",
        { log: [1, 2], count: 3 },
        { values: [] },
      ),
    );
    const key = fc.constantFrom(...SWEPT_KEYS);
    fc.assert(
      fc.property(fc.dictionary(key, value, { maxKeys: 6 }), (raw) => {
        try {
          const options = readSweepOptions(
            { model: "m", data: "d", val_size: 0.1, ...raw },
            (name) => name,
            [],
          );
          randomTrials(options.space, 5, 1);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(UsageError);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("are all reported at once, with their places", () => {
    const yaml = `model: m
data: d.jsonl
lora_r: [4, 0, x]
learning_rate: {log: [1e-3, 1e-4]}
lora_rank: 8
strategy: bayes
memory: [8GiB, 12]
`;
    const { message } = errorOf([], yaml);
    for (const line of [
      "sweep.yaml:3:9: lora_r takes a whole number, 1 or more (got 0)",
      'sweep.yaml:3:9: lora_r takes a whole number, 1 or more (got the text "x")',
      "sweep.yaml:4:16: learning_rate: a range rises from its first number",
      "sweep.yaml:5:1: lora_rank is not an option. Did you mean lora_r?",
      'sweep.yaml:6:11: strategy takes grid, random or halving (got "bayes")',
      "sweep.yaml:7:9: memory 12 is 12 B, too little for anything. Write the unit too: 12GiB.",
    ])
      expect(message).toContain(line);
  });

  it.each<[string, string[], string]>([
    ["no model and no data", [], "--model is missing"],
    ["nothing to evaluate on", ["--model", "m", "--data", "d"], "no samples are given for that"],
    ["trials of a grid", [...ALWAYS, "--trials", "3"], "--trials goes with random or halving"],
    ["rounds of a grid", [...ALWAYS, "--min-steps", "3"], "--min-steps goes with halving"],
    [
      "a part for evaluation that differs",
      [...ALWAYS.slice(0, 4), "--val-size", "0.1,0.2"],
      "takes one value",
    ],
    ["an option that a sweep sets itself", [...ALWAYS, "--resume"], "There is no flag --resume"],
    [
      "options that say the same",
      [...ALWAYS, "--epochs", "1,2", "--max-steps", "5"],
      "cannot be given together",
    ],
    [
      "nothing that differs",
      [...ALWAYS, "--lora-r", "8", "--lora-alpha", "8", "--learning-rate", "1e-4"],
      "Nothing differs",
    ],
  ])("%s", (_, argv, words) => {
    const { message, fix } = errorOf(argv);
    expect(`${message} ${fix}`).toContain(words);
  });
});
