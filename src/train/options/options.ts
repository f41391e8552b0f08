/**
 * Every training option, once. Flags, the YAML configuration, its JSON Schema and the documentation come from here. Defaults are those of
 * the official recipe: InternLM-XComposer-2.0/finetune, finetune.py and finetune_lora.sh.
 */
import { z } from "zod";
import { checkPattern } from "../../checkpoint/patterns.ts";
import { BASES, HEAD_BASES, LINEAR_NAMES } from "../../models/xcomposer2/spec.ts";
import { byteAmount, checked, count, group, parseOptions, refuseTogether, text } from "../../options.ts";
import { OFFICIAL_ADAMW } from "../../step/optimizer/adamW.ts";
import { POLICY_OPTION_NAMES, POLICY_OPTIONS, type PolicyOptionName } from "../../step/policy.ts";
import type { Device } from "../../torch/tensor.ts";
import { SCHEDULES, type ScheduleName } from "./schedule.ts";

const OFFICIAL_WARMUP_RATIO = 0.01;
const OFFICIAL_EPOCHS = 1;

/** Where a model is computed, and in which type; every command that computes takes them. */
export const computeOptions = group("Device and memory", {
  dtype: z.enum(["fp32", "bf16", "fp16"]).optional().meta({
    help: "type of weights and activations; without it fp32 for a checkpoint stored in fp32, bf16 for others (fp16, with loss scaling, on cards without it)",
  }),
  device: z
    .stringFormat("device", /^(cpu|cuda(:\d+)?)$/)
    .transform((name) => (name === "cuda" ? "cuda:0" : name) as Device)
    .optional()
    .meta({
      help: "where to compute; without it the first GPU, or the CPU where there is none",
      value: "DEVICE",
      takes: "cpu, cuda or cuda:N",
    }),
  base: z.enum(BASES).optional().meta({
    help: "precision of the decoder's frozen linears (bf16: full, in dtype); without it as the checkpoint has them",
  }),
  head_base: z.enum(HEAD_BASES).optional().meta({ help: "the same of embeddings and head" }),
  vision_base: z
    .enum(BASES)
    .optional()
    .meta({ help: "the same of the linears of vision tower and projector; changes what is seen a little" }),
  threads: count.optional().meta({ help: "CPU threads; without it one a core" }),
  memory: byteAmount.optional().meta({
    help: "most that may be held on the device, and what a run is planned for; on the CPU a hard cap; without it all that a GPU has free",
  }),
  host_memory: z
    .union([z.literal(["0", 0]).transform(() => 0), byteAmount])
    .optional()
    .meta({
      help: "most that may lie in the host's memory beside; without it as much as is of use",
      value: "AMOUNT",
      takes: "an amount of memory, as 64GiB, or 0",
    }),
});

/** How pictures become tiles. */
export const pictureOptions = group("Data", {
  hd_num: count.default(16).meta({
    help: "most tiles of 336 x 336 that a picture is scaled to: 16 gives up to 2,653 tokens, 25 up to 4,057, 55 up to 8,737",
    advice:
      "The official script's default of -1 resizes every picture to a small square, which is not what 4KHD was trained on. 16 and 25 are usual for training, 55 for reading dense documents.",
  }),
  image_compat: z.enum(["lorafit", "official"]).default("lorafit").meta({
    help: "official: EXIF orientation is ignored and alpha dropped, as the official code does",
  }),
});

/** One file or several of samples; a list either way. */
export const dataFiles = z.union([text, z.array(text).min(1)]).transform((files) => [files].flat());
const dataMeta = { value: "FILE", takes: "a file, or a list of files" };

const modelOptions = group("Model", {
  model: text.meta({
    help: "checkpoint folder, or the name of a downloaded repository (org/name)",
    value: "FOLDER",
    alias: ["model_name_or_path"],
  }),
  adapter: text.optional().meta({
    help: "PEFT adapter to start from instead of a new one",
    value: "FOLDER",
  }),
  output: text.default("output").meta({
    help: "where checkpoints and the adapter go",
    value: "FOLDER",
    alias: ["output_dir"],
  }),
  resume: z
    .union([z.boolean(), text])
    .default(false)
    .meta({
      help: "go on from the last good checkpoint of the output folder, or start where it has none; a FOLDER: go on with that run and its options",
      value: "FOLDER",
      takes: "true, false or a run's folder",
      alias: ["resume_from_checkpoint"],
    }),
});

const dataOptions = group("Data", {
  data: dataFiles.meta({
    ...dataMeta,
    help: "samples: data.txt, conversations in .json, or .jsonl",
    alias: ["data_path"],
  }),
  ...pictureOptions,
  max_length: count.default(4096).meta({
    help: "most tokens of a sample or a pack; a longer sample is an error, never cut",
    alias: ["max_len"],
  }),
  batch_size: count.default(1).meta({
    help: "samples of a micro-batch; they share one sequence without padding",
    alias: ["per_device_train_batch_size"],
  }),
  pack: z.boolean().default(false).meta({
    help: "fill micro-batches with samples up to max_length instead of counting them",
  }),
  shuffle: z.boolean().default(true).meta({
    help: "draw a new order each epoch; without it file order, over and over",
  }),
  official_sampling: z
    .boolean()
    .default(false)
    .meta({
      help: "draw with replacement, with the counts of data.txt in thousands, as the official script does",
      alias: ["given_num"],
    }),
  skip_bad: z.boolean().default(false).meta({
    help: "leave out samples that cannot be trained on, and count them, instead of stopping",
  }),
});

export const loraOptions = group("LoRA", {
  lora_r: count.default(64).meta({ help: "rank of the factors; memory in proportion" }),
  lora_alpha: z.number().positive().default(64).meta({
    help: "the update is scaled by alpha / rank, 1 in the official recipe: lower it with the rank; costs no memory",
  }),
  lora_dropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0.05)
    .meta({ help: "share of the factors' inputs that is dropped" }),
  lora_targets: z
    .union([text, z.array(text).min(1)])
    .default([...LINEAR_NAMES])
    .transform((targets, context) => checked(context, () => targetPattern(targets)))
    .meta({
      help: "linears that get factors, by name, or by a regular expression over names like layers.0.attention.wqkv",
      value: "NAME",
      takes: "names of linears, or regular expressions",
      alias: ["lora_target_modules"],
    }),
  lora_rslora: z
    .boolean()
    .default(false)
    .meta({ help: "scale by alpha / sqrt(rank)", alias: ["use_rslora"] }),
});

/** Micro-batches of a step; with several a run keeps a copy of its gradients, so more than training has to know. */
export const accumulation = count.default(8);

const beta = z.number().min(0).lt(1);
const optimizerOptions = group("Optimization", {
  learning_rate: z.number().min(0).default(5e-5).meta({ help: "peak of the schedule" }),
  lr_schedule: z
    .enum(Object.keys(SCHEDULES) as [ScheduleName, ...ScheduleName[]])
    .default("cosine")
    .meta({
      help: "course of the learning rate after the warm-up",
      alias: ["lr_scheduler_type"],
    }),
  warmup_steps: z.int().min(0).optional().meta({
    help: "steps of warm-up; the first of them runs at a rate of 0, as in the official recipe",
  }),
  warmup_ratio: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .meta({
      help: `share of all steps instead of warmup_steps; without either ${OFFICIAL_WARMUP_RATIO}`,
    }),
  epochs: count.optional().meta({
    help: `passes over the data; without max_steps ${OFFICIAL_EPOCHS}`,
    alias: ["num_train_epochs"],
  }),
  max_steps: count.optional().meta({ help: "optimizer steps instead of epochs" }),
  gradient_accumulation: accumulation.meta({
    help: "micro-batches of an optimizer step",
    alias: ["gradient_accumulation_steps"],
  }),
  loss_scale: z.enum(["micro-batch", "batch"]).default("micro-batch").meta({
    help: "the loss is a mean over the labels of each micro-batch, then over these (official), or over all labels of the step",
  }),
  weight_decay: z
    .number()
    .min(0)
    .default(OFFICIAL_ADAMW.weightDecay)
    .meta({ help: "decay of the factors in AdamW" }),
  adam_beta1: beta.default(OFFICIAL_ADAMW.beta1).meta({ help: "decay of the mean gradient" }),
  adam_beta2: beta.default(OFFICIAL_ADAMW.beta2).meta({ help: "decay of the mean squared gradient" }),
  adam_epsilon: z
    .number()
    .positive()
    .default(OFFICIAL_ADAMW.epsilon)
    .meta({ help: "added to the root of the mean squared gradient" }),
  max_grad_norm: z
    .number()
    .min(0)
    .default(1)
    .meta({ help: "a longer gradient is shortened to it; 0: no limit" }),
  seed: z.int().min(0).default(42).meta({ help: "of new factors, the order of samples, and dropout" }),
});

const checkpointOptions = group("Checkpoints and evaluation", {
  save_every: count.default(100).meta({
    help: "steps from one checkpoint to the next",
    alias: ["save_steps"],
  }),
  keep_checkpoints: count.default(2).meta({
    help: "newest checkpoints that stay",
    alias: ["save_total_limit"],
  }),
  eval_data: dataFiles.optional().meta({
    ...dataMeta,
    help: "samples to evaluate on; the best adapter is kept beside the last",
  }),
  eval_every: count.optional().meta({
    help: "steps between evaluations; without it at the end",
    alias: ["eval_steps"],
  }),
});

const policyOptions = group("Device and memory", {
  planned_step: z.boolean().default(false).meta({
    help: "plan each step to the byte, and record its planned peak beside the measured one",
  }),
  policy: z
    .union([text, z.record(z.string(), z.unknown())])
    .optional()
    .meta({
      help: "a whole policy, or one for each class of lengths, as a run records them in policy.json: the file, or the JSON",
      value: "FILE",
      takes: "the file of a policy, or its JSON",
    }),
  ...policyOptionSchemas(),
});

function policyOptionSchemas(): { [Name in PolicyOptionName]: (typeof POLICY_OPTIONS)[Name]["schema"] } {
  const schemas = POLICY_OPTION_NAMES.map((name) => [name, POLICY_OPTIONS[name].schema]);
  return Object.fromEntries(schemas);
}

/** Options that state the same thing: at most one of each pair may be given. */
export const EXCLUSIVE_OPTIONS = [
  ["warmup_steps", "warmup_ratio"],
  ["epochs", "max_steps"],
  ...POLICY_OPTION_NAMES.map((part) => ["policy", part] as const),
] as const;

/** What a configuration or the flags say; its output says the same with every default in place, and is itself a valid input. */
export const TrainOptions = z
  .strictObject({
    ...modelOptions,
    ...dataOptions,
    ...loraOptions,
    ...optimizerOptions,
    ...checkpointOptions,
    ...computeOptions,
    ...policyOptions,
  })
  .superRefine((options, context) => refuseTogether(options, EXCLUSIVE_OPTIONS, context))
  .transform(({ resume, output, warmup_steps, warmup_ratio, epochs, max_steps, ...rest }) => ({
    ...rest,
    resume: resume !== false,
    output: typeof resume === "string" ? resume : output,
    ...(warmup_steps === undefined
      ? { warmup_ratio: warmup_ratio ?? OFFICIAL_WARMUP_RATIO }
      : { warmup_steps }),
    ...(max_steps === undefined ? { epochs: epochs ?? OFFICIAL_EPOCHS } : { max_steps }),
  }));

export type TrainOptions = z.output<typeof TrainOptions>;
/** What a caller writes: all but model and data may be left out. */
export type TrainInput = z.input<typeof TrainOptions>;

/** Checked options with their defaults; throws UserError that names the first wrong one. */
export function trainOptions(input: TrainInput): TrainOptions {
  return parseOptions(TrainOptions, input);
}

/** One regular expression over module names; in a list, which is what flags give, names stand for whole linears. */
function targetPattern(targets: string | string[]): string {
  const patterns = typeof targets === "string" ? [targets] : targets.filter((target) => !isName(target));
  for (const pattern of patterns) checkPattern(pattern, "lora_targets");
  if (typeof targets === "string") return targets;
  const names = targets.filter(isName).map((name) => name.replaceAll(".", "\\."));
  const named = names.length > 0 ? [`(?:^|\\.)(?:${names.join("|")})$`] : [];
  return [...named, ...patterns].join("|");
}

function isName(target: string): boolean {
  return /^[\w.]+$/.test(target);
}
