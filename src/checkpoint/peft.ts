/** LoRA adapters as PEFT keeps them: a folder with adapter_config.json and the factors of each module. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { plural, UserError } from "../errors.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { linesOf } from "./check.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { openAsideFolder, readJsonObject, writeFileWhole } from "./disk.ts";
import { damaged } from "./faults.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { openTorchBin } from "./torchBin.ts";

export interface AdapterConfig {
  r: number;
  loraAlpha: number;
  loraDropout: number;
  /** Names of modules or ends of them after a dot, or a regular expression for whole ones. */
  targetModules: string | string[];
  useRslora: boolean;
  baseModel: string;
}

/** a: (R, in), b: (out, R), float32 on the cpu when read; the weight grows by scale * b a. */
export interface AdapterModule {
  a: Tensor;
  b: Tensor;
  scale: number;
}

export interface Adapter {
  config: AdapterConfig;
  /** By module: "layers.3.attention.wqkv". */
  modules: Map<string, AdapterModule>;
}

/** An adapter from a folder, with the names of its tensors that are no LoRA factors and were left out. */
export interface StoredAdapter extends Adapter {
  ignored: string[];
}

type Notice = (text: string) => void;

const CONFIG_FILE = "adapter_config.json";
const WEIGHT_FILES = {
  "adapter_model.safetensors": openSafetensors,
  "adapter_model.bin": openTorchBin,
} as const;

/**
 * Reads an adapter; its tensors belong to the open scope, and `notice` hears of those that were left out. Throws UserError where it is
 * none, is damaged, or does not fit: with `shapes` (official tensor name -> shape), to the model's weights.
 */
export function readAdapter(
  folder: string,
  { shapes, notice }: { shapes?: ReadonlyMap<string, readonly number[]>; notice?: Notice } = {},
): StoredAdapter {
  const json = readConfig(folder);
  const weights = openWeights(folder);
  try {
    const { factors, ignored } = factorNames(weights);
    checkFactors(weights, factors, json, shapes);
    if (ignored.length > 0) {
      const told = `left out ${plural(ignored.length, "tensor")} beside the LoRA factors`;
      notice?.(`${weights.place}: ${told}:\n${linesOf(ignored, "  ")}`);
    }
    const read = (name: string): Tensor => scope(() => weights.tensor(name).to({ dtype: "float32" }));
    const modules = [...factors].map(([module, { A, B }]) => {
      return [module, { a: read(A!), b: read(B!), scale: scaleOf(json, module) }] as const;
    });
    return { config: configOf(json), modules: new Map(modules), ignored };
  } finally {
    weights.close();
  }
}

/** Writes an adapter that PEFT loads, in place of the folder as it was. */
export function writeAdapter(folder: string, adapter: Adapter): void {
  const aside = openAsideFolder(folder);
  try {
    writeAdapterFiles(aside.folder, adapter);
    aside.commit();
  } finally {
    aside.discard();
  }
}

/** The official name of a module's weight: "layers.0.attention.wqkv" -> "model.layers.0.attention.wqkv.weight". */
export function weightNameOf(module: string): string {
  return `${peftName(module)}.weight`;
}

const Patterns = z.record(z.string(), z.number().positive()).nullish();
const absent = z.literal(false).nullish();
/** Ways to begin that also change the base's weights, which are then not those of the checkpoint. */
const CHANGES_BASE = /^(pissa|olora|corda|loftq)/i;
const ConfigJson = z.object({
  peft_type: z.literal("LORA"),
  r: z.int().positive(),
  lora_alpha: z.number(),
  lora_dropout: z.number().min(0).max(1).default(0),
  target_modules: z.union([z.string(), z.array(z.string())]).nullish(),
  use_rslora: z.boolean().default(false),
  use_dora: absent,
  lora_bias: absent,
  fan_in_fan_out: absent,
  layer_replication: z.null().optional(),
  modules_to_save: z.array(z.never()).nullish(),
  init_lora_weights: z
    .unknown()
    .refine((init) => typeof init !== "string" || !CHANGES_BASE.test(init), "changes the base's weights"),
  bias: z.literal("none").default("none"),
  rank_pattern: Patterns,
  alpha_pattern: Patterns,
  base_model_name_or_path: z.string().nullish(),
});
type ConfigJson = z.output<typeof ConfigJson>;

function readConfig(folder: string): ConfigJson {
  const file = join(folder, CONFIG_FILE);
  if (!existsSync(file)) {
    throw new UserError(`${folder} is no adapter: there is no ${CONFIG_FILE}.`, {
      fix: "Name the folder that PEFT or lorafit wrote.",
    });
  }
  const parsed = ConfigJson.safeParse(readJsonObject(file));
  if (parsed.success) return parsed.data;
  const faults = parsed.error.issues.map(({ path, message }) => `  ${path.join(".")}: ${message}`);
  throw new UserError(`${file}: this adapter can't be used:\n${faults.join("\n")}`, {
    fix: "Only LoRA adapters are read, without DoRA, trained biases or whole trained modules.",
  });
}

function openWeights(folder: string): Checkpoint {
  for (const [file, open] of Object.entries(WEIGHT_FILES)) {
    if (existsSync(join(folder, file))) return open(join(folder, file));
  }
  throw new UserError(`${folder} has no factors: none of ${Object.keys(WEIGHT_FILES).join(", ")} is there.`, {
    fix: "Copy the adapter's folder again, with all of its files.",
  });
}

/** Tensor names of a module's two factors. */
type Factors = Partial<Record<"A" | "B", string>>;

/** PEFT's key is base_model.model.<module>.lora_A.weight; some savers leave the adapter's name before .weight. */
const FACTOR_KEY = /^(?:base_model\.model\.)?(?:model\.(?=layers\.))?(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight$/;

function factorNames(weights: Checkpoint): { factors: Map<string, Factors>; ignored: string[] } {
  const factors = new Map<string, Factors>();
  const ignored: string[] = [];
  for (const name of weights.names) {
    const [, module, side] = FACTOR_KEY.exec(name) ?? [];
    if (module === undefined) {
      ignored.push(name);
      continue;
    }
    const found = factors.get(module) ?? {};
    if (found[side as "A" | "B"])
      throw damaged(weights.place, `it has two tensors for lora_${side} of ${module}`);
    factors.set(module, { ...found, [side!]: name });
  }
  return { factors, ignored };
}

function checkFactors(
  weights: Checkpoint,
  factors: Map<string, Factors>,
  json: ConfigJson,
  shapes: ReadonlyMap<string, readonly number[]> | undefined,
): void {
  const faults = [...factors].flatMap(([module, { A, B }]) => {
    if (!A || !B) return `${module}: lora_${A ? "B" : "A"} is missing`;
    const a = weights.entry(A).shape;
    const b = weights.entry(B).shape;
    const rank = patternFor(json.rank_pattern, module) ?? json.r;
    const [rows, columns] = shapes ? (shapes.get(weightNameOf(module)) ?? []) : [b[0], a[1]];
    if (rows === undefined) return `${module}: the model has no such linear`;
    const fits =
      a.length === 2 && b.length === 2 && a[0] === rank && b[1] === rank && a[1] === columns && b[0] === rows;
    return fits
      ? []
      : `${module}: A [${a}] and B [${b}] instead of [${rank}, ${columns}] and [${rows}, ${rank}]`;
  });
  if (factors.size > 0 && faults.length === 0) return;
  const fault =
    factors.size === 0 ? "it has no LoRA factors." : `its factors do not fit:\n${linesOf(faults, "  ")}`;
  throw new UserError(`${weights.place}: ${fault}`, {
    fix: "Use the base model and the configuration that it was trained with.",
  });
}

function configOf(json: ConfigJson): AdapterConfig {
  return {
    r: json.r,
    loraAlpha: json.lora_alpha,
    loraDropout: json.lora_dropout,
    targetModules: json.target_modules ?? [],
    useRslora: json.use_rslora,
    baseModel: json.base_model_name_or_path ?? "",
  };
}

function scaleOf(json: ConfigJson, module: string): number {
  const rank = patternFor(json.rank_pattern, module) ?? json.r;
  const alpha = patternFor(json.alpha_pattern, module) ?? json.lora_alpha;
  return alpha / divisor(rank, json.use_rslora);
}

function divisor(rank: number, rslora: boolean): number {
  return rslora ? Math.sqrt(rank) : rank;
}

/** The value of the first pattern that a module's name, or an end of it after a dot, matches: PEFT's rule. */
function patternFor(patterns: z.output<typeof Patterns>, module: string): number | undefined {
  const name = peftName(module);
  return Object.entries(patterns ?? {}).find(([pattern]) => {
    return pattern === name || pythonPattern(pattern).test(name);
  })?.[1];
}

/** Of a module's whole name, or of an end of it after a dot. */
function pythonPattern(pattern: string): RegExp {
  try {
    return new RegExp(`^(?:.*\\.)?(?:${pattern})$`);
  } catch (cause) {
    throw new UserError(`${CONFIG_FILE}: "${pattern}" is no regular expression that can be used here.`, {
      fix: "Write the pattern without what only Python's regular expressions have.",
      cause,
    });
  }
}

/** Name of a module as PEFT and the official code see it: "model.layers.0.attention.wqkv". */
export function peftName(module: string): string {
  return module.startsWith("layers.") ? `model.${module}` : module;
}

/** Writes the files of an adapter into a folder that is itself being written. */
export function writeAdapterFiles(folder: string, { config, modules }: Adapter): void {
  const tensors = [...modules].flatMap(([module, { a, b }]) => {
    const key = `base_model.model.${peftName(module)}`;
    return [[`${key}.lora_A.weight`, a] as const, [`${key}.lora_B.weight`, b] as const];
  });
  writeSafetensors(join(folder, "adapter_model.safetensors"), tensors, { format: "pt" });
  writeFileWhole(join(folder, CONFIG_FILE), `${JSON.stringify(peftConfig(config, modules), undefined, 2)}\n`);
}

/** Every key that PEFT 0.10 writes, so that all versions since then read it. */
function peftConfig(config: AdapterConfig, modules: Map<string, AdapterModule>): Record<string, unknown> {
  const { r, loraAlpha, loraDropout, targetModules, useRslora, baseModel } = config;
  const ranks = [...modules].map(([module, { a }]) => [peftName(module), a.shape[0]!] as const);
  const alphas = [...modules].map(([module, { a, scale }]) => {
    return [peftName(module), Number((scale * divisor(a.shape[0]!, useRslora)).toPrecision(12))] as const;
  });
  return {
    alpha_pattern: Object.fromEntries(alphas.filter(([, alpha]) => alpha !== loraAlpha)),
    auto_mapping: null,
    base_model_name_or_path: baseModel,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: loraAlpha,
    lora_dropout: loraDropout,
    megatron_config: null,
    megatron_core: "megatron.core",
    modules_to_save: null,
    peft_type: "LORA",
    r,
    rank_pattern: Object.fromEntries(ranks.filter(([, rank]) => rank !== r)),
    revision: null,
    target_modules: targetModules,
    task_type: "CAUSAL_LM",
    use_dora: false,
    use_rslora: useRslora,
  };
}
