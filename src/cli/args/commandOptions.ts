/** The options of every command, once: flags, --help and docs/cli.md come from here. */
import { z } from "zod";
import { BASES, HEAD_BASES } from "../../models/bases.ts";
import { QUANTIZED_PRECISIONS } from "../../nn/frozen/storedNames.ts";
import { byteAmount, count, group, text } from "../../options.ts";
import { computeOptions, dataFiles, pictureOptions, TrainOptions } from "../../train/options/options.ts";
import { PlanOptions } from "../plan/options.ts";
import { fitOptions } from "./fitOptions.ts";
import { doctor, pages, pull, report, setup, tiny, tokenize } from "./toolOptions.ts";

/** What a command takes, and how it is shown. */
export interface CommandOptions {
  options: z.ZodType;
  /** What the command does, in a sentence or two for --help. */
  about: string;
  /** Command lines after "lorafit". */
  examples: string[];
  /** The option that a word without a flag stands for. */
  positional?: string;
  /** Whether --config FILE gives options too. */
  config?: boolean;
}

/** Flags that every command has. */
export const CommonOptions = z.strictObject(
  group("Output", {
    json: z.boolean().default(false).meta({ help: "print one JSON value a line instead of text for people" }),
    help: z
      .boolean()
      .default(false)
      .meta({ help: "show this help", alias: ["h"] }),
  }),
);

/** Of commands that take a configuration. */
export const ConfigOptions = CommonOptions.extend({
  config: text
    .optional()
    .meta({ help: "YAML file with options; flags override it", value: "FILE", group: "Output" }),
});

const model = text.meta({
  help: "checkpoint folder, or the name of a downloaded repository (org/name)",
  value: "FOLDER",
});
const adapter = text.optional().meta({ help: "PEFT adapter on top of the model", value: "FOLDER" });
const data = dataFiles.meta({
  help: "samples: data.txt, conversations in .json, or .jsonl",
  value: "FILE",
  takes: "a file, or a list of files",
});
const max_length = count
  .default(4096)
  .meta({ help: "most tokens of a sample; a longer one is an error, never cut" });
const skip_bad = z
  .boolean()
  .default(false)
  .meta({ help: "leave out samples that cannot be used, and count them" });

const quick = z.boolean().default(false).meta({
  help: "do not decode pictures whose format does not say where a file ends (TIFF, AVIF, BMP, SVG)",
});

/** How many samples people are shown; --json has all of them. */
const shown = {
  show: z.int().min(0).default(10).meta({ help: "samples to print in full; --json has all of them" }),
  all: z.boolean().default(false).meta({ help: "print every sample in full" }),
};

const samplingOptions = group("Answers", {
  max_new_tokens: count.default(512).meta({ help: "most tokens of an answer" }),
  ignore_eos: z.boolean().default(false).meta({ help: "go on to max_new_tokens whatever the model says" }),
  temperature: z
    .number()
    .min(0)
    .default(0)
    .meta({ help: "0 takes the most likely token; higher draws more freely" }),
  top_p: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .meta({ help: "draw from the likeliest tokens that hold this share" }),
  repetition_penalty: z
    .number()
    .positive()
    .default(1)
    .meta({ help: "above 1 makes tokens seen before less likely" }),
  seed: z.int().min(0).default(0).meta({ help: "of the draws" }),
});

const eval_ = {
  about:
    "Loss of each sample on its answers, and of all samples together. With --answers, also answers the questions, scores the answers, and prints question, expected and given answer of the first samples, with marks where the answers part.",
  options: z.strictObject({
    ...group("Model", { model, adapter }),
    ...group("Data", { data, ...pictureOptions, max_length, skip_bad }),
    ...group("Answers", {
      answers: z
        .boolean()
        .default(false)
        .meta({ help: "answer the questions of each dialogue too; score by exact match and ANLS" }),
      ...shown,
    }),
    ...computeOptions,
  }),
  examples: [
    "eval --model 4khd --adapter output/adapter --data test.json",
    "eval --model 4khd --data test.json --answers",
  ],
} satisfies CommandOptions;

const generate = {
  about: "Answers the last question of each sample, or one prompt.",
  options: z.strictObject({
    ...group("Model", { model, adapter }),
    ...group("Data", {
      data: data.optional(),
      prompt: text.optional().meta({
        help: "one question instead of data; <ImageHere> stands for a picture, in front if left out",
        value: "TEXT",
      }),
      image: z
        .array(text)
        .default([])
        .meta({ help: "pictures of the prompt", value: "FILE", takes: "picture files" }),
      ...pictureOptions,
      max_length,
      skip_bad,
    }),
    ...samplingOptions,
    ...computeOptions,
  }),
  examples: [
    'generate --model 4khd --adapter output/adapter --prompt "What is the total?" --image receipt.png',
    "generate --model 4khd --data questions.json --max-new-tokens 64 --json",
  ],
} satisfies CommandOptions;

const chat = {
  about:
    "A conversation in the terminal. /image FILE shows the model a picture with the next question, /reset starts anew, /quit ends.",
  options: z.strictObject({
    ...group("Model", { model, adapter }),
    ...group("Data", {
      image: z
        .array(text)
        .default([])
        .meta({ help: "pictures of the first question", value: "FILE", takes: "picture files" }),
      ...pictureOptions,
    }),
    ...samplingOptions,
    ...computeOptions,
  }),
  examples: ["chat --model 4khd --adapter output/adapter --image page.png"],
} satisfies CommandOptions;

const merge = {
  about: "Adds an adapter into its base model's weights and writes a whole checkpoint, tensor by tensor.",
  options: z.strictObject({
    ...group("Model", {
      model,
      adapter: text.meta({ help: "PEFT adapter to add", value: "FOLDER" }),
      output: text.meta({ help: "folder for the merged checkpoint", value: "FOLDER" }),
      shard: byteAmount.optional().meta({ help: "most bytes of one file; without it 5 GB" }),
    }),
    ...group("Device and memory", {
      dtype: computeOptions.dtype.meta({ help: "type of the merged weights; without it as they are stored" }),
      device: computeOptions.device,
    }),
  }),
  examples: ["merge --model 4khd --adapter output/adapter --output merged"],
} satisfies CommandOptions;

const quantize = {
  about:
    "Writes a checkpoint with the decoder's linears in 8 or 4 bits, which loads by itself in seconds; NF4 and int8 lie in it as bitsandbytes has them. With --report, the relative error of each matrix; with --data, also what the samples' loss becomes.",
  options: z.strictObject({
    ...group("Model", {
      model,
      output: text.meta({ help: "folder for the quantised checkpoint", value: "FOLDER" }),
      report: z.boolean().default(false).meta({ help: "compare each matrix with what becomes of it" }),
    }),
    ...group("Data", { data: data.optional(), ...pictureOptions, max_length, skip_bad }),
    ...computeOptions,
    ...group("Model", {
      base: z
        .enum(QUANTIZED_PRECISIONS)
        .default("nf4")
        .meta({ help: "precision of the decoder's linears; PLoRA stays as it is" }),
      head_base: z
        .enum(HEAD_BASES)
        .default("bf16")
        .meta({ help: "the same of embeddings and head; bf16: as they are" }),
      vision_base: z
        .enum(BASES)
        .default("bf16")
        .meta({ help: "the same of the linears of vision tower and projector; bf16: as they are" }),
    }),
  }),
  examples: [
    "quantize --model 4khd --output 4khd-nf4 --report",
    "quantize --model 4khd --output 4khd-int8 --base int8 --data test.json",
  ],
} satisfies CommandOptions;

const preview = {
  about:
    "What the model sees: a picture scaled and padded to its grid of tiles, or the prompts of the first samples with the tokens that it learns to say.",
  options: z.strictObject(
    group("Data", {
      image: text.optional().meta({ help: "picture to transform", value: "FILE" }),
      data: data.optional(),
      model: text.optional().meta({ help: "model whose tokenizer reads the data", value: "FOLDER" }),
      ...pictureOptions,
      ...shown,
      out: text.default("preview").meta({ help: "folder for what is drawn", value: "FOLDER" }),
    }),
  ),
  examples: ["preview --image page.png --hd-num 25 --out preview", "preview --model 4khd --data train.json"],
} satisfies CommandOptions;

const validate = {
  about:
    "Checks that every sample of a data set can be trained on, and says how many tokens they have. Training does the same before it begins.",
  options: z.strictObject(group("Data", { model, data, ...pictureOptions, max_length, skip_bad, quick })),
  examples: ["validate --model 4khd --data data.txt --hd-num 16 --max-length 4096"],
} satisfies CommandOptions;

const plan = {
  about:
    "What fits a card, and how fast it will be: the training step itself, run without data. No GPU and no weights are needed. Ends with the lorafit train line that does it.",
  options: PlanOptions,
  examples: [
    "plan",
    "plan --gpu rtx-4090",
    "plan --memory 8GiB --hd-num 55",
    "plan --memory 24GiB --lora-r 16 --solve max-length --json",
    "plan --gpu v100-32gb --compare official --html plan.html",
  ],
} satisfies CommandOptions;

const fit = {
  about:
    "Finds the longest sample that this device takes: real training steps on made-up samples, longer and longer, each with its measured peak beside the planned one.",
  options: z.strictObject({
    ...group("Model", { model }),
    ...fitOptions,
    ...computeOptions,
  }),
  examples: ["fit --model 4khd", "fit --model tiny --device cpu --memory 300MiB --json"],
} satisfies CommandOptions;

const init = {
  about:
    "Writes a commented train.yaml for a data set. Checks every sample first, plans for the card in this machine or the one named, and fills in hd_num and max_length.",
  options: z.strictObject({
    ...group("Model", { model }),
    ...group("Data", {
      data,
      eval_data: dataFiles.optional().meta({
        help: "Samples to evaluate on; they are checked too.",
        value: "FILE",
        takes: "a file, or a list of files",
      }),
      hd_num: count.optional().meta({
        ...pictureOptions.hd_num.meta(),
        help: "Maximum number of tiles of a picture. Default: 16, or the next smaller of 9, 4 and 1 that fits.",
      }),
      max_length: count.optional().meta({
        help: "Maximum number of tokens of a sample. Default: that of the longest sample, rounded up to 64.",
      }),
      image_compat: pictureOptions.image_compat,
      skip_bad,
    }),
    ...group("Machine", {
      gpu: text.optional().meta({
        help: "Card to plan for, by name; `lorafit plan --list-gpus` lists them. Default: the card in this machine, or its CPU.",
        value: "NAME",
      }),
      memory: byteAmount.optional().meta({ help: "Device memory limit of the run. Default: all of it." }),
    }),
    ...group("Output", {
      out: text.default("train.yaml").meta({ help: "File to write; it must not exist.", value: "FILE" }),
    }),
  }),
  examples: [
    "init --model internlm/internlm-xcomposer2-4khd-7b --data data.txt --gpu rtx-4090",
    "init --model tiny --data pages/data.txt",
  ],
} satisfies CommandOptions;

const train = {
  about:
    "Trains LoRA factors on pictures and text. Options come from flags, a YAML file, or both; names of the official finetune_lora.sh work too.",
  options: TrainOptions,
  config: true,
  examples: [
    "train --model 4khd --data data.txt --lora-r 16 --hd-num 16 --max-length 4096",
    "train --config train.yaml --learning-rate 1e-4",
    "train --resume output",
  ],
} satisfies CommandOptions;

export const COMMAND_OPTIONS = {
  plan,
  fit,
  init,
  train,
  eval: eval_,
  generate,
  chat,
  merge,
  quantize,
  preview,
  validate,
  report,
  tokenize,
  setup,
  doctor,
  pull,
  tiny,
  pages,
} as const satisfies Record<string, CommandOptions>;

export type CommandName = keyof typeof COMMAND_OPTIONS;

/** Checked options of a command, as its module's run() gets them. */
export type OptionsOf<N extends CommandName> = z.output<(typeof COMMAND_OPTIONS)[N]["options"]>;
