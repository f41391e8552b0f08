/** Lists the options of every command, once: flags, --help and docs/cli.md come from here. */

import { z } from "zod";
import { PlanOptions } from "../../answer/options.ts";
import { openLimits } from "../../data/pictures/limits.ts";
import { BASES, HEAD_BASES } from "../../models/precision/bases.ts";
import { QUANTIZED_PRECISIONS } from "../../nn/frozen/storedNames.ts";
import { byteAmount, count, dataFiles, group, text } from "../../options.ts";
import {
  computeOptions,
  labelOptions,
  pictureOptions,
  TrainOptions,
  USUAL_MAX_LENGTH,
} from "../../train/options/options.ts";
import type { CommandOptions } from "./commonOptions.ts";
import { scoredAnswers, setAsideOptions } from "./evalOptions.ts";
import { fitOptions } from "./fitOptions.ts";
import { serve } from "./serveOptions.ts";
import { sweep, sweepShow } from "./sweepOptions.ts";
import { demo, doctor, pages, pull, report, setup, tiny, tokenize, ui } from "./toolOptions.ts";

const model = text.meta({
  help: "Model folder, or the name of a downloaded repository (org/name).",
  value: "FOLDER",
});
const adapter = text.optional().meta({ help: "PEFT adapter to use on top of the model.", value: "FOLDER" });
const data = dataFiles.meta({
  help: "Files of samples: data.txt, conversations in .json, or .jsonl.",
  value: "FILE",
  takes: "a file, or a list of files",
});
const max_length = count
  .default(USUAL_MAX_LENGTH)
  .meta({ help: "Maximum number of tokens in a sample. A longer sample is an error; nothing is cut." });
const skip_bad = z
  .boolean()
  .default(false)
  .meta({ help: "Leave out samples that cannot be used, and report how many, instead of stopping." });

const quick = z.boolean().default(false).meta({
  help: "Do not decode pictures of formats that do not mark the end of a file (TIFF, AVIF, BMP, SVG).",
});

/** Options for how many samples people are shown; --json prints all of them. */
const shown = {
  show: z
    .int()
    .min(0)
    .default(10)
    .meta({ help: "Number of samples to print in full; --json prints all of them." }),
  all: z.boolean().default(false).meta({ help: "Print every sample in full." }),
};

const samplingOptions = group("Answers", {
  max_new_tokens: count.default(512).meta({ help: "Maximum number of tokens in an answer." }),
  ignore_eos: z
    .boolean()
    .default(false)
    .meta({ help: "Continue to max_new_tokens, even if the model ends its answer before." }),
  temperature: z.number().min(0).default(0).meta({
    help: "Randomness of the answer. 0: always the most likely token; 1: tokens by their probability.",
  }),
  top_p: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .meta({ help: "Draw only from the most likely tokens whose probabilities add up to this share." }),
  repetition_penalty: z
    .number()
    .positive()
    .default(1)
    .meta({ help: "Factor above 1 that makes tokens less likely if they were in the text before." }),
  seed: z.int().min(0).default(0).meta({ help: "Seed of the random draws." }),
});

const eval_ = {
  about:
    "Computes the loss of each sample on its answers, and of all samples together. With --answers, the model also answers the questions: the answers are scored, and those of the first samples are printed beside the expected ones, with marks on the differences.",
  options: z.strictObject({
    ...group("Model", { model, adapter }),
    ...group("Data", {
      data,
      ...pictureOptions,
      ...labelOptions,
      max_length,
      skip_bad,
      ...setAsideOptions,
    }),
    ...group("Answers", {
      ...scoredAnswers,
      ...shown,
    }),
    ...computeOptions,
  }),
  examples: [
    "eval --model internlm/internlm-xcomposer2-4khd-7b --adapter output/adapter --data test.json",
    "eval --model internlm/internlm-xcomposer2-4khd-7b --data test.json --answers",
    "eval --model internlm/internlm-xcomposer2-4khd-7b --data receipts.json --metric field_f1 cer",
  ],
} satisfies CommandOptions;

const generate = {
  about: "Answers the last question of each sample, or one prompt.",
  options: z.strictObject({
    ...group("Model", { model, adapter }),
    ...group("Data", {
      data: data.optional(),
      prompt: text.optional().meta({
        help: "One question instead of --data. <ImageHere> marks the place of a picture; without <ImageHere>, pictures come first.",
        value: "TEXT",
      }),
      image: z
        .array(text)
        .default([])
        .meta({ help: "Pictures of the prompt.", value: "FILE", takes: "picture files" }),
      ...pictureOptions,
      max_length,
      skip_bad,
    }),
    ...samplingOptions,
    ...computeOptions,
  }),
  examples: [
    'generate --model internlm/internlm-xcomposer2-4khd-7b --adapter output/adapter --prompt "What is the total?" --image receipt.png',
    "generate --model internlm/internlm-xcomposer2-4khd-7b --data questions.json --max-new-tokens 64 --json",
  ],
} satisfies CommandOptions;

const chat = {
  about:
    "Talks with the model in the terminal. /image FILE shows it a picture with the next question, /reset starts a new conversation, /help lists the commands, /quit ends.",
  options: z.strictObject({
    ...group("Model", { model, adapter }),
    ...group("Data", {
      image: z
        .array(text)
        .default([])
        .meta({ help: "Pictures of the first question.", value: "FILE", takes: "picture files" }),
      ...pictureOptions,
    }),
    ...samplingOptions,
    ...computeOptions,
  }),
  examples: ["chat --model internlm/internlm-xcomposer2-4khd-7b --adapter output/adapter --image page.png"],
} satisfies CommandOptions;

const merge = {
  about: "Adds an adapter into its base model's weights and writes a whole checkpoint, tensor by tensor.",
  options: z.strictObject({
    ...group("Model", {
      model,
      adapter: text.meta({ help: "PEFT adapter to merge.", value: "FOLDER" }),
      output: text.meta({ help: "Folder for the merged checkpoint, new or empty.", value: "FOLDER" }),
      shard: byteAmount.optional().meta({ help: "Maximum size of one file. Default: 5 GB." }),
    }),
    ...group("Device and memory", {
      dtype: computeOptions.dtype.meta({
        help: "Type of the merged weights. Default: the type they are stored in.",
      }),
      device: computeOptions.device,
    }),
  }),
  examples: ["merge --model internlm/internlm-xcomposer2-4khd-7b --adapter output/adapter --output merged"],
} satisfies CommandOptions;

const verify = {
  about:
    "Compares the greedy answers of the model with the adapter applied, of a checkpoint that lorafit has merged, and of one that PEFT has merged if Python has torch and peft. Names each difference; the exit code is 1 if there is one.",
  options: z.strictObject({
    ...group("Model", {
      model,
      adapter: text.meta({ help: "PEFT adapter to verify.", value: "FOLDER" }),
      python: text.default("python3").meta({ help: "Python that has torch and peft.", value: "FILE" }),
      work: text.optional().meta({
        help: "Folder for the merged checkpoints, which are deleted at the end. Default: the system's temporary folder.",
        value: "FOLDER",
      }),
    }),
    ...group("Data", {
      data: data.optional(),
      samples: count.default(8).meta({ help: "Number of samples to answer, the first ones of the data." }),
      ...pictureOptions,
      max_length,
      skip_bad,
    }),
    ...group("Answers", {
      max_new_tokens: count.default(64).meta({ help: "Maximum number of tokens in an answer." }),
    }),
    ...computeOptions,
  }),
  examples: [
    "verify --model internlm/internlm-xcomposer2-4khd-7b --adapter output/adapter --data test.json",
    "verify --model internlm/internlm-xcomposer2-4khd-7b --adapter output/adapter --python venv/bin/python",
  ],
} satisfies CommandOptions;

const quantize = {
  about:
    "Writes a checkpoint with the decoder's linear layers in 8 or 4 bits, which loads in seconds. NF4 and int8 are stored in the format of bitsandbytes. --report prints the relative error of each matrix, --data the loss of samples before and after.",
  options: z.strictObject({
    ...group("Model", {
      model,
      output: text.meta({ help: "Folder for the quantised checkpoint, new or empty.", value: "FOLDER" }),
      report: z.boolean().default(false).meta({ help: "Print the relative error of each quantised matrix." }),
    }),
    ...group("Data", { data: data.optional(), ...pictureOptions, max_length, skip_bad }),
    ...computeOptions,
    ...group("Model", {
      base: z
        .enum(QUANTIZED_PRECISIONS)
        .default("nf4")
        .meta({ help: "Precision of the decoder's linear layers. PLoRA keeps its own." }),
      head_base: z
        .enum(HEAD_BASES)
        .default("bf16")
        .meta({ help: "Precision of the embeddings and the output head; bf16 keeps them as they are." }),
      vision_base: z.enum(BASES).default("bf16").meta({
        help: "Precision of the vision tower's and the projector's linear layers; bf16 keeps them as they are.",
      }),
    }),
  }),
  examples: [
    "quantize --model internlm/internlm-xcomposer2-4khd-7b --output 4khd-nf4 --report",
    "quantize --model internlm/internlm-xcomposer2-4khd-7b --output 4khd-int8 --base int8 --data test.json",
  ],
} satisfies CommandOptions;

const preview = {
  about:
    "Shows what the model sees: a picture scaled, with its tiles or windows drawn in, or the first samples of a data set with the text that the model learns.",
  options: z.strictObject(
    group("Data", {
      image: text.optional().meta({ help: "Picture to transform.", value: "FILE" }),
      data: data.optional(),
      model: text.optional().meta({
        help: "Model whose tokenizer reads the data, and whose way of laying out pictures is drawn. Token ids need none; without a model, pictures are XComposer2-4KHD's.",
        value: "FOLDER",
      }),
      ...pictureOptions,
      ...labelOptions,
      ...shown,
      out: text.default("preview").meta({ help: "Folder for the drawings.", value: "FOLDER" }),
    }),
  ),
  examples: [
    "preview --image page.png --hd-num 25 --out preview",
    "preview --model internlm/internlm-xcomposer2-4khd-7b --data train.json",
  ],
} satisfies CommandOptions;

const validate = {
  about:
    "Checks that every sample of a data set can be trained on, and reports how many tokens they have. Training does the same before it starts.",
  options: z.strictObject(group("Data", { model, data, ...pictureOptions, max_length, skip_bad, quick })),
  examples: [
    "validate --model internlm/internlm-xcomposer2-4khd-7b --data data.txt --hd-num 16 --max-length 4096",
  ],
} satisfies CommandOptions;

const plan = {
  about:
    "Answers whether a training run fits a card, and how fast it will be. lorafit runs the real training step on tensors without data, so it needs no GPU and no weights. The answer ends with the command that trains.",
  options: PlanOptions,
  examples: [
    "plan",
    "plan --gpu rtx-4090",
    "plan --memory 8GiB --hd-num 55",
    "plan --memory 24GiB --lora-r 16 --solve max-length --json",
    "plan --gpu v100-32gb --compare official --html plan.html",
    "plan --serve --gpu rtx-4090 --base nf4",
  ],
} satisfies CommandOptions;

const fit = {
  about:
    "Finds the longest sample that fits this device, by real training steps on made-up samples of growing length. Prints the measured and the planned peak memory of each. One process alone: `lorafit plan --gpus N --solve max-length` plans several cards.",
  options: z.strictObject({
    ...group("Model", { model }),
    ...fitOptions,
    ...computeOptions,
  }),
  examples: [
    "fit --model internlm/internlm-xcomposer2-4khd-7b",
    "fit --model tiny --device cpu --memory 300MiB --json",
  ],
} satisfies CommandOptions;

const init = {
  about:
    "Writes a commented train.yaml for a data set. Checks every sample first, plans for the card in this machine or the one named, and fills in max_length and the limit of pictures (hd_num, max_pixels or max_tiles, by model).",
  options: z.strictObject({
    ...group("Model", { model }),
    ...group("Data", {
      data,
      eval_data: dataFiles.optional().meta({
        help: "Samples to evaluate on; they are checked too.",
        value: "FILE",
        takes: "a file, or a list of files",
      }),
      ...openLimits("init"),
      min_pixels: pictureOptions.min_pixels,
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
    "Trains a LoRA adapter on pictures and text. Options come from flags, a YAML file, or both; the names of the official finetune_lora.sh work too.",
  options: TrainOptions,
  config: true,
  examples: [
    "train --model internlm/internlm-xcomposer2-4khd-7b --data data.txt --lora-r 16 --hd-num 16 --max-length 4096",
    "train --config train.yaml --learning-rate 1e-4",
    "train --resume output",
  ],
} satisfies CommandOptions;

export const COMMAND_OPTIONS = {
  plan,
  fit,
  init,
  train,
  sweep,
  "sweep show": sweepShow,
  eval: eval_,
  generate,
  chat,
  serve,
  merge,
  verify,
  quantize,
  preview,
  validate,
  report,
  ui,
  tokenize,
  setup,
  doctor,
  pull,
  tiny,
  pages,
  demo,
} as const satisfies Record<string, CommandOptions>;

export type CommandName = keyof typeof COMMAND_OPTIONS;

/** Checked options of a command, as its module's run() gets them. */
export type OptionsOf<N extends CommandName> = (typeof COMMAND_OPTIONS)[N] extends {
  read: (...given: never[]) => infer Read;
}
  ? Read
  : z.output<(typeof COMMAND_OPTIONS)[N]["options"]>;
