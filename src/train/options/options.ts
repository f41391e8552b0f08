/**
 * Every training option, once. Flags, the YAML configuration, its JSON Schema and the documentation come from
 * here. Defaults are those of the official recipe (InternLM-XComposer-2.0/finetune, finetune.py and
 * finetune_lora.sh), except rank and learning rate: see recipes.ts.
 */
import { z } from "zod";
import { ADAPTER_KEYS } from "../../checkpoint/adapter/moduleNames.ts";
import { checkPattern } from "../../checkpoint/adapter/patterns.ts";
import { IMAGE_COMPATS } from "../../data/pictures/imageCompat.ts";
import { limitShape } from "../../data/pictures/limits.ts";
import { ALL_LINEARS } from "../../models/facts.ts";
import { patternOfNames } from "../../models/loraTargets.ts";
import { BASES, HEAD_BASES } from "../../models/precision/bases.ts";
import {
  byteAmount,
  checked,
  count,
  dataFiles,
  group,
  parseOptions,
  refuseLone,
  refuseTogether,
  text,
} from "../../options.ts";
import { OFFICIAL_ADAMW } from "../../step/optimizer/adamW.ts";
import { POLICY_OPTION_NAMES, POLICY_OPTIONS, type PolicyOptionName } from "../../step/policy.ts";
import type { Device } from "../../torch/tensor.ts";
import { checkpointOptions, type EarlyStop, earlyStopOf } from "./checkpointOptions.ts";
import { withSteps } from "./interval.ts";
import { launchOptions } from "./launchOptions.ts";
import { rankOptions } from "./rankOptions.ts";
import { alphaOfScaleOne, defaultByRecipe, RECIPES, recipe } from "./recipes.ts";
import { reportOptions } from "./reportTo.ts";
import { SCHEDULES, type ScheduleName } from "./schedule.ts";

const OFFICIAL_WARMUP_RATIO = 0.01;
const OFFICIAL_EPOCHS = 1;

/** Options of device, type and memory, which every command that computes has. */
export const computeOptions = group("Device and memory", {
  dtype: z.enum(["fp32", "bf16", "fp16"]).optional().meta({
    help: "Type of weights and activations. Default: fp32 for a checkpoint stored in fp32; bf16 for others (fp16, with loss scaling, on cards without bf16).",
  }),
  device: z
    .stringFormat("device", /^(cpu|cuda(:\d+)?)$/)
    .transform((name) => (name === "cuda" ? "cuda:0" : name) as Device)
    .optional()
    .meta({
      help: "Device to compute on. Default: the first GPU, or the CPU if there is none.",
      value: "DEVICE",
      takes: "cpu, cuda or cuda:N",
    }),
  base: z.enum(BASES).optional().meta({
    help: "Precision of the decoder's frozen linear layers; bf16 keeps them in the computing type. Default: as the model stores them.",
  }),
  head_base: z.enum(HEAD_BASES).optional().meta({
    help: "Precision of the embeddings and the output head. Default: as the model stores them.",
  }),
  vision_base: z.enum(BASES).optional().meta({
    help: "Precision of the vision tower's and the projector's linear layers; fewer bits change a little what the model sees. Default: as the model stores them.",
  }),
  threads: count.optional().meta({ help: "CPU threads. Default: one for each core." }),
  memory: byteAmount.optional().meta({
    help: "Device memory limit. The run is planned to fit it. On a CPU it is enforced as a hard cap. Default: all free GPU memory; no limit on a CPU.",
  }),
  host_memory: z
    .union([z.literal(["0", 0]).transform(() => 0), byteAmount])
    .optional()
    .meta({
      help: "Host memory (RAM) limit for what is kept off the device; 0: nothing is kept there. Default: this machine's memory beside a GPU; no limit on a CPU.",
      value: "AMOUNT",
      takes: "an amount of memory, as 64GiB, or 0",
    }),
});

/** Tokens of the longest sample, unless the user says more. */
export const USUAL_MAX_LENGTH = 4096;

/** Fewest pixels of a picture, for forms of pictures that have such a limit. */
export const minPixels = count.optional().meta({
  help: "Minimum number of pixels that a smaller picture is scaled up to, for Qwen2.5-VL and Qwen3-VL. Default: as the model's preprocessor_config.json says",
});

/** How pictures become tokens. */
export const pictureOptions = group("Data", {
  ...limitShape,
  min_pixels: minPixels,
  image_compat: z.enum(IMAGE_COMPATS).default("lorafit").meta({
    help: "How picture files are decoded and scaled. official: ignores EXIF orientation and drops alpha, as the official code does. pil: scales Qwen and InternVL pictures with Pillow, as transformers without torchvision and ms-swift do.",
  }),
});

/** Which tokens of an answer are learned. */
export const labelOptions = group("Data", {
  label_newline: z.boolean().default(false).meta({
    help: "Learn the line end behind the last token of each answer too, as ms-swift and LLaMA-Factory do.",
  }),
});

const modelOptions = group("Model", {
  model: text.meta({
    help: "Model folder, or the name of a downloaded repository (org/name).",
    value: "FOLDER",
    alias: ["model_name_or_path"],
  }),
  adapter: text.optional().meta({
    help: "PEFT adapter to start from instead of a new one; it brings its own rank, alpha and target layers.",
    value: "FOLDER",
  }),
  output: text.default("output").meta({
    help: "Folder for checkpoints, logs and the finished adapter.",
    value: "FOLDER",
    alias: ["output_dir"],
  }),
  resume: z
    .union([z.boolean(), text])
    .default(false)
    .meta({
      help: "Continue from the last complete checkpoint in the output folder; start from scratch if there is none. With FOLDER: continue that run with its own options.",
      value: "FOLDER",
      takes: "true, false or a run's folder",
      alias: ["resume_from_checkpoint"],
    }),
});

const dataOptions = group("Data", {
  data: dataFiles.meta({
    help: "Samples to train on: data.txt, conversations in .json, or .jsonl.",
    alias: ["data_path"],
  }),
  ...pictureOptions,
  ...labelOptions,
  max_length: count.default(USUAL_MAX_LENGTH).meta({
    help: "Maximum number of tokens in a sample or a pack. A longer sample is an error; nothing is cut.",
    alias: ["max_len"],
  }),
  batch_size: count.default(1).meta({
    help: "Samples in a micro-batch. They share one sequence without padding. The official per_device_train_batch_size multiplies it.",
  }),
  pack: z.boolean().default(false).meta({
    help: "Fill each micro-batch with samples up to max_length, instead of taking batch_size samples.",
  }),
  shuffle: z.boolean().default(true).meta({
    help: "Draw a new order of samples for each epoch. With --no-shuffle every epoch has the order of the files.",
  }),
  official_sampling: z
    .boolean()
    .default(false)
    .meta({
      help: "Draw samples with replacement, in proportion to the counts in data.txt (in thousands), as the official script does.",
      alias: ["given_num"],
    }),
  skip_bad: z.boolean().default(false).meta({
    help: "Leave out samples that cannot be trained on, and report how many, instead of stopping.",
  }),
});

export const loraOptions = group("LoRA", {
  lora_r: count.optional().meta({
    help: `Rank of the LoRA factors; 4 to 32 is usual. Memory of factors, gradients and optimizer grows in proportion. ${defaultByRecipe("lora_r")}`,
  }),
  lora_alpha: z.number().positive().optional().meta({
    help: "Scale of the adapter: what it learns is multiplied by alpha / rank. Needs no memory. Default: lora_r, so that the scale is 1 as in the official recipe; with --lora-rslora, the square root of lora_r.",
  }),
  lora_dropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0.05)
    .meta({ help: "Share of the factors' inputs that is dropped at random." }),
  lora_targets: z
    .union([text, z.array(text).min(1)])
    .default([...ALL_LINEARS])
    .transform((targets, context) => checked(context, () => targetPattern(targets)))
    .meta({
      help: "Linear layers to adapt: names, or a regular expression matched against names such as layers.0.attention.wqkv.",
      value: "NAME",
      takes: "names of linears, or regular expressions",
      alias: ["lora_target_modules"],
    }),
  adapter_keys: z.enum(ADAPTER_KEYS).default("newest").meta({
    help: "Names of modules in the adapter's files: newest as transformers has them from 4.52 on, older as before.",
  }),
  lora_rslora: z
    .boolean()
    .default(false)
    .meta({ help: "Scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA).", alias: ["use_rslora"] }),
});

/**
 * Micro-batches of an optimizer step. A run with several keeps a copy of its gradients, so a plan asks for
 * this number too.
 */
export const accumulation = count.default(8);

/** Decides every random draw of a run. */
export const seed = z.int().min(0).default(42);

const beta = z.number().min(0).lt(1);
const optimizerOptions = group("Optimization", {
  recipe,
  learning_rate: z
    .number()
    .min(0)
    .optional()
    .meta({
      help: `Peak learning rate of the schedule; 5e-5 to 2e-4 is usual. LoRA learns best at about 10 times the rate of full fine-tuning, which is 1e-5 in the official script. ${defaultByRecipe("learning_rate")}`,
    }),
  lr_schedule: z
    .enum(Object.keys(SCHEDULES) as [ScheduleName, ...ScheduleName[]])
    .default("cosine")
    .meta({
      help: "Course of the learning rate after the warm-up.",
      alias: ["lr_scheduler_type"],
    }),
  warmup_steps: z.int().min(0).optional().meta({
    help: "Optimizer steps of warm-up. The first of them has a learning rate of 0, as in the official recipe. Default: by warmup_ratio.",
  }),
  warmup_ratio: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .meta({
      help: `Warm-up as a share of all steps. Default: ${OFFICIAL_WARMUP_RATIO}, unless warmup_steps is given.`,
    }),
  epochs: count.optional().meta({
    help: `Passes over the data. Default: ${OFFICIAL_EPOCHS}, unless max_steps is given.`,
    alias: ["num_train_epochs"],
  }),
  max_steps: count.optional().meta({
    help: "Optimizer steps of the whole run, which the schedule of the learning rate spans. Default: by epochs.",
  }),
  gradient_accumulation: accumulation.meta({
    help: "Micro-batches of an optimizer step.",
    alias: ["gradient_accumulation_steps"],
  }),
  loss_scale: z.enum(["micro-batch", "batch"]).default("micro-batch").meta({
    help: "What the loss of a step averages. micro-batch: the mean of its micro-batches' means (official). batch: the mean over all labels of the step.",
  }),
  weight_decay: z
    .number()
    .min(0)
    .default(OFFICIAL_ADAMW.weightDecay)
    .meta({ help: "Weight decay of the factors in AdamW." }),
  adam_beta1: beta.default(OFFICIAL_ADAMW.beta1).meta({ help: "Decay of AdamW's mean gradient." }),
  adam_beta2: beta.default(OFFICIAL_ADAMW.beta2).meta({ help: "Decay of AdamW's mean squared gradient." }),
  adam_epsilon: z
    .number()
    .positive()
    .default(OFFICIAL_ADAMW.epsilon)
    .meta({ help: "Added to the root of AdamW's mean squared gradient." }),
  max_grad_norm: z
    .number()
    .min(0)
    .default(1)
    .meta({ help: "Maximum norm of a step's gradient; a longer gradient is shortened to it. 0: no limit." }),
  seed: seed.meta({
    help: "Seed of new factors, the order of samples, dropout, and the part of --val-size.",
  }),
});

const policyOptions = group("Device and memory", {
  memory_snapshot: text.optional().meta({
    help: "Write the allocations of the largest last micro-batch so far, or of one that runs out of memory, for pytorch.org/memory_viz. Steps take longer with it.",
    value: "FILE",
  }),
  planned_step: z.boolean().default(false).meta({
    help: "Plan every step to the byte, and record its planned peak beside the measured one.",
  }),
  policy: z
    .union([text, z.record(z.string(), z.unknown())])
    .optional()
    .meta({
      help: "Policy to run with, or one for each class of lengths, as a run records them in policy.json: the file, or its JSON. Default: the fastest policy that fits the memory limit.",
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
  ["eval_data", "val_size"],
  ["gpus", "cpu_ranks"],
  ...POLICY_OPTION_NAMES.map((part) => ["policy", part] as const),
] as const;

/**
 * The options of a run, from flags or a configuration. The output has every default in place, and is itself a
 * valid input.
 */
export const TrainOptions = z
  .strictObject({
    ...modelOptions,
    ...dataOptions,
    ...loraOptions,
    ...optimizerOptions,
    ...checkpointOptions,
    ...reportOptions,
    ...computeOptions,
    ...policyOptions,
    ...launchOptions,
    ...rankOptions,
  })
  .superRefine((options, context) => {
    refuseTogether(options, EXCLUSIVE_OPTIONS, context);
    const other = options.device === "cpu" ? "gpus" : "cpu_ranks";
    if (options.device !== undefined) refuseTogether(options, [["device", other]], context);
    const evaluated = ["eval_data", "val_size"];
    if (options.metric !== "loss") refuseLone(options, "metric", evaluated, context);
    refuseLone(options, "early_stop_min_delta", ["early_stop"], context);
    if (!earlyStopOf(options)) return;
    refuseLone(options, "early_stop", evaluated, context);
    refuseLone(options, "early_stop", ["eval_every"], context);
  })
  .transform(({ resume, output, warmup_steps, warmup_ratio, epochs, max_steps, ...others }) => ({
    ...withEarlyStop(others),
    ...recipeValues(others),
    resume: resume !== false,
    save_every: withSteps(others.save_every),
    output: typeof resume === "string" ? resume : output,
    ...(warmup_steps === undefined
      ? { warmup_ratio: warmup_ratio ?? OFFICIAL_WARMUP_RATIO }
      : { warmup_steps }),
    ...(max_steps === undefined ? { epochs: epochs ?? OFFICIAL_EPOCHS } : { max_steps }),
  }));

export type TrainOptions = z.output<typeof TrainOptions>;
/** The options as a caller writes them: all except model and data may be left out. */
export type TrainInput = z.input<typeof TrainOptions>;

/** Checks options and adds the defaults. Throws a UserError that names the first wrong option. */
export function trainOptions(input: TrainInput): TrainOptions {
  return parseOptions(TrainOptions, input);
}

/** Writes when the run ends early in one form; leaves it out if never. */
function withEarlyStop<O extends Parameters<typeof earlyStopOf>[0]>(
  options: O,
): Omit<O, "early_stop" | "early_stop_min_delta"> & { early_stop?: EarlyStop } {
  const { early_stop: _, early_stop_min_delta: __, ...rest } = options;
  const earlyStop = earlyStopOf(options);
  return { ...rest, ...(earlyStop && { early_stop: earlyStop }) };
}

/** Takes from the recipe what its options leave out. */
function recipeValues(
  given: Pick<
    z.output<z.ZodObject<typeof loraOptions & typeof optimizerOptions>>,
    "recipe" | "lora_r" | "lora_alpha" | "lora_rslora" | "learning_rate"
  >,
): { lora_r: number; lora_alpha: number; learning_rate: number } {
  const { lora_r = RECIPES[given.recipe].lora_r, lora_rslora } = given;
  const { lora_alpha = alphaOfScaleOne(lora_r, lora_rslora) } = given;
  return { lora_r, lora_alpha, learning_rate: given.learning_rate ?? RECIPES[given.recipe].learning_rate };
}

/**
 * Makes one regular expression over module names. In a list, which is what flags give, a name stands for a
 * whole linear.
 */
function targetPattern(targets: string | string[]): string {
  const patterns = typeof targets === "string" ? [targets] : targets.filter((target) => !isName(target));
  for (const pattern of patterns) checkPattern(pattern, "lora_targets");
  if (typeof targets === "string") return targets;
  const names = targets.filter(isName);
  const named = names.length > 0 ? [patternOfNames(names)] : [];
  return [...named, ...patterns].join("|");
}

function isName(target: string): boolean {
  return /^[\w.]+$/.test(target);
}
