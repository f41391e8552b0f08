import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { TrainOptions } from "../../train/options/options.ts";
import { readCommand } from "./readCommand.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "command-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const train = (line: string) => {
  const request = readCommand("train", line.split(/\s+/).filter(Boolean), undefined);
  if (request.kind === "help") throw new Error("asked for help");
  return { ...request, options: request.options as TrainOptions };
};
const config = (text: string): string => {
  const file = join(folder, "train.yaml");
  writeFileSync(file, text);
  return file;
};

// InternLM-XComposer-2.0/finetune/finetune_lora.sh, with the hd_num that its README gives for 4KHD
const OFFICIAL = `--model_name_or_path 4khd --data_path data.txt --img_size 490 --hd_num 16 --given_num True
  --bf16 True --fix_vit True --fix_sampler True --use_lora True --output_dir output/finetune --num_train_epochs 1
  --batch_size 1 --per_device_train_batch_size 1 --per_device_eval_batch_size 1 --gradient_accumulation_steps 8
  --evaluation_strategy no --save_strategy epoch --save_total_limit 1 --learning_rate 5e-5 --weight_decay 0.1
  --adam_beta2 0.95 --warmup_ratio 0.01 --lr_scheduler_type cosine --logging_steps 1 --report_to none
  --max_length 4096 --deepspeed ds_config_zero2.json --gradient_checkpointing True`;

describe("the official command line", () => {
  it("works as it stands", () => {
    const { options, notes } = train(OFFICIAL);
    expect(options).toMatchObject({
      ...{ model: "4khd", data: ["data.txt"], output: "output/finetune", dtype: "bf16", epochs: 1 },
      ...{ official_sampling: true, keep_checkpoints: 1, gradient_accumulation: 8, warmup_ratio: 0.01 },
      ...{ recipe: "official", lora_r: 64, lora_alpha: 64, learning_rate: 5e-5 },
    });
    expect(notes).toContain("--img_size has no effect: 4KHD takes pictures of any size");
    expect(notes.filter((note) => note.includes("has no effect"))).toHaveLength(8);
  });

  it("may change the script's rank, whose default is the official one", () => {
    expect(train(`${OFFICIAL} --lora_r 8`).options).toMatchObject({ lora_r: 8, lora_alpha: 8 });
    expect(train(`${OFFICIAL} --recipe lorafit`).options).toMatchObject({ lora_r: 16, learning_rate: 5e-5 });
  });

  it("says the dtype by --bf16 or --fp16", () => {
    const { options } = train(OFFICIAL.replace("--bf16 True", "--bf16 False --fp16 True"));
    expect(options).toMatchObject({ dtype: "fp16" });
  });

  it("is refused where it asks for what lorafit does not do", () => {
    expect(() => train(OFFICIAL.replace("fix_vit True", "fix_vit False"))).toThrow(
      "the vision tower stays frozen",
    );
    expect(() => train(OFFICIAL.replace("--hd_num 16", "--hd_num -1"))).toThrow(
      /--hd_num takes .* \(got -1\)/,
    );
  });
});

describe("flags over a configuration", () => {
  it("replace what the file says", () => {
    const file = config("model: a\ndata: d\nlora_r: 8\n");
    expect(train(`--config ${file} --lora-r 16`).options).toMatchObject({ model: "a", lora_r: 16 });
  });

  it("replace what states the same thing", () => {
    const file = config("model: a\ndata: d\nepochs: 3\nwarmup_ratio: 0.1\n");
    const { options } = train(`--config ${file} --max-steps 5`);
    expect(options).toMatchObject({ max_steps: 5, warmup_ratio: 0.1 });
    expect(options).not.toHaveProperty("epochs");
  });

  it("leave the file's own contradictions to be told by their places", () => {
    const file = config("model: a\ndata: d\nepochs: 3\nmax_steps: 3\n");
    expect(() => train(`--config ${file}`)).toThrow(
      `${file}:4:12: max_steps cannot be given together with ${file}:3:9: epochs.`,
    );
  });

  it("are needed for what the file leaves out", () => {
    expect(() => train(`--config ${config("data: d\n")}`)).toThrow(/train\.yaml: model is missing/);
    expect(() => train("--data d")).toThrow("--model is missing");
  });
});

describe("--resume with a folder", () => {
  it("goes on with that run's options", () => {
    const run = join(folder, "run");
    mkdirSync(run);
    writeFileSync(
      join(run, "train.yaml"),
      "model: a\ndata: [d]\noutput: elsewhere\nresume: false\nmax_steps: 7\n",
    );
    expect(train(`--resume ${run}`).options).toMatchObject({
      model: "a",
      max_steps: 7,
      resume: true,
      output: run,
    });
  });

  it("says where there is no run", () => {
    expect(() => train(`--resume ${folder}`)).toThrow(`There is no run in ${folder}`);
  });
});

describe("words without a flag", () => {
  it("are the command's own option", () => {
    const request = readCommand("pull", ["org/name", "--json"], undefined);
    expect(request).toMatchObject({ kind: "run", json: true, options: { repository: "org/name" } });
  });

  it("are refused where there is none, and past it", () => {
    expect(() => readCommand("pull", ["org/name", "more"], undefined)).toThrow('a word too many: "more"');
    expect(() => train("data.json --model a --data d")).toThrow('a word too many: "data.json"');
  });
});

it("shows help where it is asked for, whatever else is wrong", () => {
  const request = readCommand("eval", ["--help"], 80);
  expect(request).toMatchObject({
    kind: "help",
    text: expect.stringContaining("Usage: lorafit eval --model FOLDER"),
  });
  const text = request.kind === "help" ? request.text : "";
  expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThanOrEqual(80);
});
