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

/** Argument lists of the official finetune_lora.sh, by the version whose folder they are in. */
const OFFICIAL = {
  "2.5": `--model_name_or_path 4khd --data_path data.txt --given_num True --bf16 True --fix_vit True --fix_sampler True --use_lora True
    --hd_num 18 --output_dir output/finetune_lora --num_train_epochs 1 --batch_size 2 --per_device_train_batch_size 1
    --per_device_eval_batch_size 1 --gradient_accumulation_steps 8 --evaluation_strategy no --save_strategy epoch --save_total_limit 1
    --learning_rate 5e-5 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01 --lr_scheduler_type cosine --logging_steps 1
    --report_to none --max_length 16384 --deepspeed ds_config_zero2.json --gradient_checkpointing True`,
  "2.0": `--model_name_or_path 4khd --data_path data.txt --img_size 490 --hd_num -1 --given_num True --bf16 True --fix_vit True
    --fix_sampler True --use_lora True --output_dir output/finetune --num_train_epochs 1 --batch_size 1 --per_device_train_batch_size 1
    --per_device_eval_batch_size 1 --gradient_accumulation_steps 8 --evaluation_strategy no --save_strategy epoch --save_total_limit 1
    --learning_rate 5e-5 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01 --lr_scheduler_type cosine --logging_steps 1
    --report_to none --max_length 4096 --deepspeed ds_config_zero2.json --gradient_checkpointing True`,
  "1.0": `--model_name_or_path 4khd --vl_data_path vl.json --txt_data_path txt.json --bf16 True --fix_vit True --fix_sampler True
    --output_dir output/IXC_debug --num_train_epochs 1 --inner_batch_size 4 --per_device_train_batch_size 1
    --per_device_eval_batch_size 1 --gradient_accumulation_steps 8 --evaluation_strategy no --save_steps 5000 --save_total_limit 10
    --learning_rate 5e-5 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01 --lr_scheduler_type cosine --logging_steps 1
    --report_to none --max_length 2048 --use_lora True --deepspeed ds_config_zero2.json --gradient_checkpointing True`,
};
/** Options that the three have in common. */
const SHARED = {
  ...{ model: "4khd", dtype: "bf16", epochs: 1, gradient_accumulation: 8, warmup_ratio: 0.01 },
  ...{ learning_rate: 5e-5, weight_decay: 0.1, adam_beta2: 0.95, lr_schedule: "cosine" },
};

describe("the official command line", () => {
  it("may name the metric of the best adapter and early stopping as transformers does", () => {
    const line = `${OFFICIAL["2.5"]} --eval_data test.json --eval_steps 5 --early_stopping_patience 3 --early_stopping_threshold 0.01 --metric_for_best_model`;
    expect(train(`${line} loss`).options).toMatchObject({ early_stop: { patience: 3, min_delta: 0.01 } });
    expect(train(`${line} eval_cer`).options).toMatchObject({ metric: "cer" });
    expect(train(`${line} eval_loss --greater_is_better False`).options).toMatchObject({ metric: "loss" });
  });

  it("may say when to save in steps, and lorafit's own in time", () => {
    expect(train(`${OFFICIAL["2.5"]} --save_steps 5000`).options).toMatchObject({ save_every: 5000 });
    expect(train("--model m --data d --save-every 10min").options).toMatchObject({ save_every: "10min" });
    expect(() => train("--model m --data d --save-every 10 minutes")).toThrow(/minutes/);
    expect(() => train("--model m --data d --save-every soon")).toThrow(
      '--save-every takes a number of steps, or a time such as 90s, 10min or 1h (got "soon").',
    );
  });

  it("may change the script's rank, whose default is the official one", () => {
    const official = OFFICIAL["2.5"];
    expect(train(official).options).toMatchObject({ recipe: "official", lora_r: 64, lora_alpha: 64 });
    expect(train(`${official} --lora_r 8`).options).toMatchObject({ lora_r: 8, lora_alpha: 8 });
    expect(train(`${official} --recipe lorafit`).options).toMatchObject({ lora_r: 16, learning_rate: 5e-5 });
  });

  it.each<[keyof typeof OFFICIAL, string, object]>([
    [
      "2.5",
      "",
      {
        data: ["data.txt"],
        batch_size: 2,
        hd_num: 18,
        max_length: 16384,
        official_sampling: true,
        keep_checkpoints: 1,
      },
    ],
    [
      "2.0",
      "--hd_num 16",
      { data: ["data.txt"], batch_size: 1, hd_num: 16, max_length: 4096, output: "output/finetune" },
    ],
    [
      "1.0",
      "",
      {
        data: ["vl.json", "txt.json"],
        batch_size: 4,
        max_length: 2048,
        save_every: 5000,
        keep_checkpoints: 10,
      },
    ],
  ])("of version %s works as it stands", (version, hdNum, expected) => {
    const line = hdNum ? OFFICIAL[version].replace(/--hd_num \S+/, hdNum) : OFFICIAL[version];
    const { options, notes } = train(line);
    expect(options).toMatchObject({ ...SHARED, ...expected });
    expect(notes).toHaveLength(1);
    for (const name of line.match(
      /--(deepspeed|gradient_checkpointing|logging_steps|img_size|evaluation_strategy)\b/g,
    ) ?? [])
      expect(notes[0]).toContain(name);
    expect(notes[0]).not.toContain("batch_size 1");
  });

  it("works in a configuration too", () => {
    const yaml = OFFICIAL["2.5"].replaceAll(/--(\S+)\s+(\S+)\s*/g, "$1: $2\n");
    const { options, notes } = train(`--config ${config(yaml)}`);
    expect(options).toMatchObject({ ...SHARED, batch_size: 2, hd_num: 18, official_sampling: true });
    expect(notes).toEqual(train(OFFICIAL["2.5"]).notes);
    expect(train(`--config ${config(yaml)} --per_device_train_batch_size 3`).options.batch_size).toBe(3);
  });

  it.each([
    ["--batch_size 2 --per_device_train_batch_size 3", 6],
    ["--per_device_train_batch_size 3", 3],
    ["--batch-size 4", 4],
  ])("%s makes micro-batches of %i samples", (flags, samples) => {
    expect(train(`--model a --data d ${flags}`).options.batch_size).toBe(samples);
  });

  it.each([
    [
      "--batch_size 1 --batch-size 2",
      "--batch_size and --batch-size give the same option two values, 1 and 2.",
    ],
    ["--output a --output_dir b", "--output and --output_dir give the same option two values, a and b."],
    ["--per_device_train_batch_size none", "--per_device_train_batch_size takes a whole number, 1 or more"],
  ])("%s is refused", (flags, message) => {
    expect(() => train(`--model a --data d ${flags}`)).toThrow(message);
  });

  it("says the dtype by --bf16 or --fp16", () => {
    const { options } = train(OFFICIAL["2.5"].replace("--bf16 True", "--bf16 False --fp16 True"));
    expect(options).toMatchObject({ dtype: "fp16" });
  });

  it("is refused for what lorafit does not do, all at once", () => {
    const full = OFFICIAL["2.5"].replaceAll(/(fix_vit|fix_sampler|use_lora) True/g, "$1 False");
    expect(() => train(full)).toThrow(
      /3 options are wrong:\n.*--use_lora false.*\n.*--fix_vit false.*\n.*--fix_sampler false/,
    );
    expect(() => train(OFFICIAL["2.0"])).toThrow(/--hd_num takes .* \(got -1\)/);
  });
});

it("an amount of memory without its unit is asked back, in the unit that it was meant in", () => {
  const fixOf = (flags: string): unknown => {
    try {
      return train(`--model a --data d ${flags}`);
    } catch (thrown) {
      return (thrown as { fix?: string }).fix;
    }
  };
  expect(fixOf("--memory 24")).toBe("Write the unit too: 24GiB.");
  expect(fixOf("--memory 24576")).toBe("Write the unit too: 24576MiB.");
  expect(fixOf("--host-memory 64")).toBe("Write the unit too: 64GiB.");
  expect(fixOf("--memory 1KiB")).toMatch(/^Pass an amount such as 8GiB; .*plan --solve memory/); // it has a unit
  expect(() => train("--model a --data d --memory 1KiB")).toThrow(
    "--memory 1KiB is too little for anything.",
  );
  expect(train("--model a --data d --memory 24000000000 --host-memory 0").options).toMatchObject({
    memory: 24e9,
    host_memory: 0,
  });
});

it("all that is wrong with a file and with the flags beside it comes at once", () => {
  const file = config("model: a\nlerning_rate: 1\nlora_r: 0.5\nfix_vit: false\n");
  const message = ((): string => {
    try {
      train(`--config ${file} --seed x`);
      return "";
    } catch (thrown) {
      return (thrown as Error).message;
    }
  })();
  expect(message.split("\n")).toEqual([
    "5 options are wrong:",
    `  ${file}:2:1: lerning_rate is not an option. Did you mean learning_rate?`,
    `  ${file}:4:10: fix_vit false is not possible: the vision tower stays frozen. Leave it out.`,
    expect.stringMatching(/^ {2}.*train\.yaml: data is missing: samples.* Pass --data FILE\.$/),
    `  ${file}:3:9: lora_r takes a whole number, 1 or more (got 0.5).`,
    `  --seed takes a whole number, 0 or more (got the text "x").`,
  ]);
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

  it("may be left out if the option has a default", () => {
    expect(readCommand("ui", [], undefined)).toMatchObject({ options: { folder: "." } });
    expect(() => readCommand("pull", [], undefined)).toThrow("REPOSITORY is missing");
  });

  it("that name a YAML file bring up --config, in the commands that have it", () => {
    const thrown = (name: "train" | "pages"): unknown => {
      try {
        return readCommand(name, ["my train.yaml"], undefined);
      } catch (error) {
        return error;
      }
    };
    expect(thrown("train")).toMatchObject({ fix: "Pass --config 'my train.yaml'." });
    expect(thrown("pages")).toMatchObject({ fix: expect.stringContaining("--help shows the flags") });
  });

  it("are refused where there is none, and past it", () => {
    expect(() => readCommand("pull", ["org/name", "more"], undefined)).toThrow('"more" is a word too many');
    expect(() => train("data.json --model a --data d")).toThrow('"data.json" is a word too many');
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
