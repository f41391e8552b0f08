/**
 * adapter_config.json: the fields of PEFT's LoRA configuration, and which of their values lorafit can use.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.ts";
import { linesOf } from "../check.ts";
import { quoted } from "../faults.ts";
import { readJsonObject } from "../files/disk.ts";
import { type ModulePrefix, peftName } from "./moduleNames.ts";
import { firstMatches, fromPython } from "./patterns.ts";

export const CONFIG_FILE = "adapter_config.json";

export const FIX_UNUSABLE =
  "Use an adapter of plain LoRA. If PEFT can merge this one into its base model, merge it there and use the result.";

/** Fields without effect on finished factors: they describe files, or how training began or saved memory. */
const WITHOUT_EFFECT = [
  ...["task_type", "auto_mapping", "inference_mode", "revision", "peft_version"],
  ...["exclude_modules", "layers_to_transform", "layers_pattern"], // the tensors say which modules have factors
  ...["megatron_core", "runtime_config", "ensure_weight_tying", "qalora_group_size"],
  ...["loftq_config", "eva_config", "corda_config", "lora_ga_config"], // options of init_lora_weights
  "velora_config", // compresses activations for the backward pass
  ...["lora_dtype", "lorap_lr_ratio", "lorap_emb_lr"], // ms-swift: precision of training, learning rates
];

/**
 * Fields with only one usable value, and the meaning of any other. null, false, [] and {} are always usable.
 */
// biome-ignore format: columns line up
const NEUTRAL_ONLY: Readonly<Record<string, { neutral?: unknown; means: string }>> = {
  bias:                    { neutral: "none", means: "biases of the base model were trained" },
  use_dora:                { means: "DoRA: magnitudes of the weights were trained" },
  lora_bias:               { means: "the factors have biases" },
  fan_in_fan_out:          { means: "the weights are transposed" },
  layer_replication:       { means: "layers are repeated" },
  modules_to_save:         { means: "whole modules were trained" },
  trainable_token_indices: { means: "embeddings of single tokens were trained" },
  alora_invocation_tokens: { means: "aLoRA: the factors act only after certain tokens" },
  use_qalora:              { means: "QALoRA: the factors act on averages of their inputs" },
  target_parameters:       { means: "parameters that are not linear layers have factors" },
  use_bdlora:              { means: "BD-LoRA: the factors are block-diagonal" },
  arrow_config:            { means: "Arrow: tokens are routed between several adapters" },
  kasa_config:             { means: "KaSA: the base's weights were changed, and singular values were trained" },
  monteclora_config:       { means: "MonteCLoRA: the factors are sampled" },
  megatron_config:         { means: "the factors are split for Megatron" },
  enable_lora:             { means: "only parts of a linear layer have factors" },
  use_qa_lora:             { means: "QA-LoRA: the factors act on averages of their inputs" },
};

/**
 * Initialisations that subtract something from the base's weights, which then differ from the checkpoint's.
 */
const CHANGES_BASE = /^(pissa|olora|corda|loftq|lora_ga)/i;

const Patterns = z.record(z.string(), z.number().positive()).nullish();
const ConfigJson = z.object({
  peft_type: z.literal("LORA"),
  r: z.int().positive(),
  lora_alpha: z.number(),
  lora_dropout: z
    .number()
    .min(0)
    .max(1)
    .nullish()
    .transform((share) => share ?? 0),
  target_modules: z.union([z.string(), z.array(z.string())]).nullish(),
  use_rslora: z
    .boolean()
    .nullish()
    .transform((used) => used ?? false),
  init_lora_weights: z
    .unknown()
    .refine((init) => typeof init !== "string" || !CHANGES_BASE.test(init), "changes the base's weights"),
  rank_pattern: Patterns,
  alpha_pattern: Patterns,
  base_model_name_or_path: z.string().nullish(),
});

export type PeftConfig = z.output<typeof ConfigJson> & {
  file: string;
  /** Whether PEFT 0.15 or newer wrote it: older versions read patterns in another way. */
  isRecent: boolean;
};

/** Reads a folder's configuration. Throws UserError that names every field that lorafit can't use. */
export function readPeftConfig(folder: string): PeftConfig {
  const file = join(folder, CONFIG_FILE);
  if (!existsSync(file)) {
    throw new UserError(`${folder} is not an adapter: it has no ${CONFIG_FILE}.`, {
      fix: "Name the folder that PEFT or lorafit wrote.",
    });
  }
  const json = readJsonObject(file);
  const parsed = ConfigJson.safeParse(json);
  const malformed = parsed.error?.issues.map(
    ({ path, message }) => `${path.map(String).join(".")}: ${message}`,
  );
  const faults = [...(malformed ?? []), ...Object.entries(json).flatMap(unusable)];
  if (!parsed.success || faults.length > 0) {
    throw new UserError(`${file}: lorafit can't use this adapter:\n${linesOf(faults, "  ")}`, {
      fix: FIX_UNUSABLE,
    });
  }
  const isRecent = ["corda_config", "trainable_token_indices", "peft_version"].some((field) => field in json);
  return { ...parsed.data, file, isRecent };
}

/** Says what a field's value means if lorafit can't use it. */
function unusable([field, value]: [string, unknown]): string[] {
  if (Object.hasOwn(ConfigJson.shape, field) || WITHOUT_EFFECT.includes(field)) return [];
  const known = Object.hasOwn(NEUTRAL_ONLY, field) ? NEUTRAL_ONLY[field] : undefined;
  if (isEmpty(value) || (known && value === known.neutral)) return [];
  return known ? [`${field}: ${known.means}`] : [`${quoted(field)}: lorafit does not know this field`];
}

function isEmpty(value: unknown): boolean {
  if (typeof value === "object" && value !== null) return Object.keys(value).length === 0;
  return value === null || value === false;
}

/** Rank and scale of a module's factors. */
export interface ModuleScale {
  rank: number;
  scale: number;
}

/**
 * Returns ranks and scales by module, from the patterns as the PEFT that wrote them read them. `ranks`: rows
 * of each lora_A; they decide if the version is unknown. prefix: of the modules' names in PEFT.
 */
export function moduleScales(
  config: PeftConfig,
  ranks: ReadonlyMap<string, number>,
  prefix: ModulePrefix,
): Map<string, ModuleScale> {
  const readings = config.isRecent ? [bracketed, open] : [open, bracketed];
  const scales = readings.map((reading) => scalesBy(reading, config, [...ranks.keys()], prefix));
  const fits = (read: Map<string, ModuleScale>): boolean =>
    [...ranks].every(([module, rank]) => read.get(module)?.rank === rank);
  return scales.find(fits) ?? scales[0]!;
}

/** Wraps a pattern as PEFT does before it matches. */
type Reading = (pattern: string) => string;

/** Since PEFT 0.15: matches a module's whole name, or its end after a dot. */
const bracketed: Reading = (pattern) => `^(?:(.*\\.)?(${pattern})$)`;
/**
 * Before: matches an end after a dot. Alternatives have no brackets, so that only the last must reach the
 * end.
 */
const open: Reading = (pattern) => `^(?:.*\\.${pattern}$)`;

function scalesBy(
  reading: Reading,
  config: PeftConfig,
  modules: string[],
  prefix: ModulePrefix,
): Map<string, ModuleScale> {
  const names = new Map(modules.map((module) => [module, peftName(module, prefix)]));
  const ranks = patternValues(reading, config, "rank_pattern", names);
  const alphas = patternValues(reading, config, "alpha_pattern", names);
  return new Map(
    modules.map((module) => {
      const rank = ranks.get(module) ?? config.r;
      const alpha = alphas.get(module) ?? config.lora_alpha;
      return [module, { rank, scale: alpha / scaleDivisor(rank, config.use_rslora) }];
    }),
  );
}

/**
 * Returns the value of the first pattern that matches, or else that of the entry with the module's own name:
 * PEFT's rule.
 */
function patternValues(
  reading: Reading,
  config: PeftConfig,
  field: "rank_pattern" | "alpha_pattern",
  names: ReadonlyMap<string, string>,
): Map<string, number> {
  const patterns = new Map(Object.entries(config[field] ?? {}));
  if (patterns.size === 0) return new Map();
  const found = firstMatches([...patterns.keys()], [...names.values()], {
    place: `${config.file}: ${field}`,
    sourceOf: (pattern) => reading(fromPython(pattern)),
  });
  return new Map(
    [...names].flatMap(([module, name]) => {
      const value = patterns.get(found.get(name) ?? name);
      return value === undefined ? [] : [[module, value] as const];
    }),
  );
}

/** Returns the number by which alpha is divided to give the scale. */
export function scaleDivisor(rank: number, rslora: boolean): number {
  return rslora ? Math.sqrt(rank) : rank;
}
