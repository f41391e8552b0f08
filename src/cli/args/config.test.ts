import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { optionSpecs } from "../../options.ts";
import { TrainOptions } from "../../train/options/options.ts";
import { readConfig } from "./config.ts";

const specs = optionSpecs(TrainOptions);
let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "config-"));
  file = join(folder, "train.yaml");
});
afterEach(() => rmSync(folder, { recursive: true }));

const read = (text: string) => {
  writeFileSync(file, text);
  return readConfig(file, specs);
};

it("reads options with their YAML types", () => {
  const { raw } = read(
    "model: 4khd\ndata: [a.json, b.json]\nlearning_rate: 5e-5\nshuffle: false\nmemory: 2GiB\n",
  );
  expect(raw).toEqual({
    model: "4khd",
    data: ["a.json", "b.json"],
    learning_rate: 5e-5,
    shuffle: false,
    memory: "2GiB",
  });
});

it("reads a file without options, and options without a value, as nothing", () => {
  expect(read("# nothing yet\n").raw).toEqual({});
  expect(read("memory:\nseed: 1\n").raw).toEqual({ seed: 1 });
});

it("names an option by the place of its value", () => {
  const { spell } = read("model: 4khd\nlora_r:   many\n");
  expect(spell("lora_r")).toBe(`${file}:2:11: lora_r`);
  expect(spell("data")).toBe(`${file}: data`);
});

describe("errors", () => {
  it.each([
    ["model: a\nlora-r: 8\n", ":2:1: lora-r is not an option.", "Did you mean lora_r?"],
    ["num_train_epochs: 8\n", ":1:1: num_train_epochs is not an option.", "Did you mean epochs?"],
    ["model: a\nmodel: b\n", ":2:1: Map keys must be unique", "Mend the YAML there."],
    ["model: 'a\n", ":2:1: Missing closing 'quote", "Mend the YAML there."],
    ["- model\n", " is not a list of options.", 'Write one a line, as "lora_r: 16".'],
  ])("%j", (text, message, fix) => {
    expect(() => read(text)).toThrow(
      expect.objectContaining({ message: expect.stringContaining(file + message), fix }),
    );
  });

  it("say which file cannot be read", () => {
    expect(() => readConfig(join(folder, "none.yaml"), specs)).toThrow(
      /none\.yaml cannot be read: there is no such file/,
    );
  });
});
