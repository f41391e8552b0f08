import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { optionSpecs } from "../../options.ts";
import { TrainOptions } from "../../train/options/options.ts";
import { readFlags } from "./flags.ts";

const specs = optionSpecs(TrainOptions);
const read = (line: string) => readFlags(line.split(" ").filter(Boolean), specs);

describe("spellings", () => {
  it.each([
    ["--lora-r 8", { lora_r: 8 }],
    ["--lora_r 8", { lora_r: 8 }],
    ["--lora-r=8", { lora_r: 8 }],
    ["--hd-num -1", { hd_num: -1 }],
    ["--learning-rate 5e-5", { learning_rate: 5e-5 }],
    ["--num_train_epochs 2", { epochs: 2 }],
    ["--num-train-epochs=2", { epochs: 2 }],
    ["--no-shuffle", { shuffle: false }],
    ["--shuffle", { shuffle: true }],
    ["--shuffle false", { shuffle: false }],
    ["--given_num True", { official_sampling: true }],
    ["--pack=false", { pack: false }],
    ["--data a b --lora-r 8", { data: ["a", "b"], lora_r: 8 }],
    ["--data a --data b", { data: ["a", "b"] }],
    ["--data=a", { data: ["a"] }],
    ["--resume", { resume: true }],
    ["--resume runs/7", { resume: "runs/7" }],
    ["--no-resume", { resume: false }],
  ])("%s", (line, raw) => {
    expect(read(line).raw).toEqual(raw);
  });
});

it("remembers how a flag was typed", () => {
  expect(read("--lora_r=8").spelled.get("lora_r")).toBe("--lora_r");
});

it("leaves words that are no values, and what comes after --", () => {
  expect(read("one --pack two -- --three").positionals).toEqual(["one", "--three", "two"]);
});

describe("errors", () => {
  it.each([
    ["--lora-rr 8", "There is no flag --lora-rr.", "Did you mean --lora-r?"],
    ["--learningrate 8", "There is no flag --learningrate.", "Did you mean --learning-rate?"],
    ["--num_train_epoch 8", "There is no flag --num_train_epoch.", "Did you mean --epochs?"],
    ["--lora-ra 8", "There is no flag --lora-ra.", "Did you mean --lora-r?"],
    ["--lroa-r 8", "There is no flag --lroa-r.", "Did you mean --lora-r?"],
    ["--zzz", "There is no flag --zzz.", "--help shows the flags of a command."],
    ["--no-lora-r", "There is no flag --no-lora-r.", "Did you mean --lora-r?"],
    ["-x", "There is no flag -x.", "--help shows the flags of a command."],
    ["--model", "--model needs a value.", "--help shows the value of each flag."],
    ["--model --data x", "--model needs a value.", "--help shows the value of each flag."],
    [
      "--lora-r 8 --lora_r 16",
      "--lora-r and --lora_r give the same option two values, 8 and 16.",
      "Leave one of them out.",
    ],
  ])("%s", (line, message, fix) => {
    try {
      read(line);
      expect.unreachable();
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(UserError);
      expect(thrown).toMatchObject({ message, fix });
    }
  });

  it("leave what is no number for the schema to refuse", () => {
    expect(read("--lora-r many").raw).toEqual({ lora_r: "many" });
  });
});

it("reads every option back from flags that spell it", () => {
  const word = fc.stringMatching(/^[a-z0-9./]+$/).filter((text) => !/^(true|false)$/i.test(text));
  const valueFor = (spec: (typeof specs)[number]): fc.Arbitrary<unknown> => {
    if (spec.kind !== "value") return fc.boolean();
    if (spec.many) return fc.array(word, { minLength: 1, maxLength: 3 });
    return spec.numeric
      ? fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => value + 0)
      : word;
  };
  const record = fc.record(Object.fromEntries(specs.map((spec) => [spec.key, valueFor(spec)])), {
    requiredKeys: [],
  });
  const name = fc.constantFrom("flag", "key");
  fc.assert(
    fc.property(record, name, (raw, form) => {
      const argv = specs
        .filter(({ key }) => raw[key] !== undefined)
        .flatMap((spec) => [
          form === "flag" ? spec.flag : `--${spec.key}`,
          ...[raw[spec.key]].flat().map(String),
        ]);
      expect(readFlags(argv, specs).raw).toEqual(raw);
    }),
  );
});
