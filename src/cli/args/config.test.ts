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

it("takes every name that flags have", () => {
  const { raw, errors, spell } = read("lora-r: 8\nnum_train_epochs: 2\ngiven_num: true\noutput-dir: runs\n");
  expect(raw).toEqual({ lora_r: 8, epochs: 2, official_sampling: true, output: "runs" });
  expect(errors).toEqual([]);
  expect(spell("epochs")).toBe(`${file}:2:19: num_train_epochs`);
});

it("names every key that is not an option, and options that are given two values", () => {
  const { errors } = read("lora_rr: 8\nzzzzzz: 1\nepochs: 1\nnum_train_epochs: 2\n");
  expect(errors.map(({ message, fix }) => `${message} ${fix?.slice(0, 24)}`)).toEqual([
    `${file}:1:1: lora_rr is not an option. Did you mean lora_r?`,
    `${file}:2:1: zzzzzz is not an option. Options are model, adapt`,
    `${file}:4:1: num_train_epochs and epochs give the same option two values. Leave one of them out.`.slice(
      0,
    ),
  ]);
});

it("reads or refuses files that were made to take long", () => {
  const start = process.cpuUsage();
  const keys = Array.from({ length: 100_000 }, (_, key) => `key_${key}: 1\n`).join("");
  expect(() => read(keys)).toThrow("more than any configuration");
  const few = Array.from({ length: 20_000 }, (_, key) => `k${key}: 1\n`).join("");
  expect(read(few).errors).toHaveLength(20_000);
  expect(() => read("[".repeat(50_000))).toThrow(/./);
  expect(() =>
    read(
      `a: &a [x,x,x,x,x,x,x,x,x]\n${"bcdefghij".replace(
        /./g,
        (name, at: number, all: string) =>
          `${name}: &${name} [${Array(9)
            .fill(`*${at === 0 ? "a" : all[at - 1]}`)
            .join(",")}]\n`,
      )}`,
    ),
  ).toThrow(/alias/i);
  const { user, system } = process.cpuUsage(start);
  expect((user + system) / 1e6).toBeLessThan(60); // seconds; without limits these files take hours
});

describe("errors", () => {
  it.each([
    ["model: a\nmodel: b\n", ":2:1: model is given twice.", "Leave one of them out."],
    ["policy:\n  keep: 1\n  keep: 2\n", ":3:3: keep is given twice.", "Leave one of them out."],
    ["model: 'a\n", ":2:1: Missing closing 'quote", "Correct the YAML there."],
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
