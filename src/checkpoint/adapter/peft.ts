/**
 * Reads and writes PEFT's LoRA adapters: a folder with adapter_config.json and the factors of each module.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { plural, UserError } from "../../errors.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { linesOf } from "../check.ts";
import type { Checkpoint } from "../checkpoint.ts";
import { damaged, quoted } from "../faults.ts";
import { openAsideFolder, writeFileWhole } from "../files/disk.ts";
import { openSafetensors, writeSafetensors } from "../files/safetensors.ts";
import { openTorchBin } from "../files/torchBin.ts";
import { findWeight, type ModulePrefix, PLAIN_PREFIX, peftName, splitName } from "./moduleNames.ts";
import {
  CONFIG_FILE,
  FIX_UNUSABLE,
  type ModuleScale,
  moduleScales,
  type PeftConfig,
  readPeftConfig,
  scaleDivisor,
} from "./peftConfig.ts";

export interface AdapterConfig {
  r: number;
  loraAlpha: number;
  loraDropout: number;
  /** Names of modules or their ends after a dot, or a regular expression for whole names. */
  targetModules: string | string[];
  useRslora: boolean;
  baseModel: string;
}

/** a: (R, in), b: (out, R), float32 on the CPU when read. The weight becomes W + scale * b a. */
export interface AdapterModule {
  a: Tensor;
  b: Tensor;
  scale: number;
}

export interface Adapter {
  config: AdapterConfig;
  /** Prefix of a decoder's modules in PEFT's names. */
  prefix: ModulePrefix;
  /** By module: "layers.3.attention.wqkv". */
  modules: Map<string, AdapterModule>;
}

const WEIGHT_FILES = {
  "adapter_model.safetensors": openSafetensors,
  "adapter_model.bin": openTorchBin,
} as const;

/**
 * Reads an adapter of LoRA factors; its tensors belong to the open scope. With `shapes` (official tensor name
 * to shape), checks that the factors fit the model. Throws UserError if the adapter is damaged, does not fit,
 * or has anything that lorafit can't use.
 */
export function readAdapter(
  folder: string,
  { shapes }: { shapes?: ReadonlyMap<string, readonly number[]> } = {},
): Adapter {
  const config = readPeftConfig(folder);
  const weights = openWeights(folder);
  try {
    const { factors, prefix } = factorNames(weights);
    refuseEmpty(weights);
    const ranks = [...factors].map(
      ([module, { A }]) => [module, A ? (weights.entry(A).shape[0] ?? 0) : 0] as const,
    );
    const scales = moduleScales(config, new Map(ranks), prefix);
    checkFactors(weights, factors, { scales, shapes });
    const modules = [...factors].map(([module, { A, B }]) => {
      const { scale } = scales.get(module)!;
      return [module, { a: readFactor(weights, A!), b: readFactor(weights, B!), scale }] as const;
    });
    return { config: configOf(config), prefix, modules: new Map(modules) };
  } finally {
    weights.close();
  }
}

function readFactor(weights: Checkpoint, name: string): Tensor {
  return scope(() => {
    const factor = weights.tensor(name).to({ dtype: "float32" });
    if (factor.isfinite().all().item()) return factor;
    throw new UserError(`${weights.place}: ${quoted(name)} has values that are NaN or infinite.`, {
      fix: "Use an earlier checkpoint of its training, or train it again with a lower learning rate.",
    });
  });
}

/** Writes an adapter that PEFT loads, replacing the folder. */
export function writeAdapter(folder: string, adapter: Adapter): void {
  const aside = openAsideFolder(folder);
  try {
    writeAdapterFiles(aside.folder, adapter);
    aside.commit();
  } finally {
    aside.discard();
  }
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

/**
 * PEFT's key is base_model.model.<module>.lora_A.weight; some tools keep the adapter's name before .weight.
 */
const FACTOR_KEY = /^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight$/;

/** Buffers that only PEFT's training uses: VeLoRA's projection of activations. */
const TRAINING_KEY = /\.lora_velora_embed(\.|$)/;

/** Kinds of tensors that are not LoRA factors, by name; the first match counts. */
const OTHER_KINDS: readonly [kind: string, name: RegExp][] = [
  ["DoRA: trained magnitudes of weights", /\.lora_magnitude_vector(\.|$)/],
  ["factors of an embedding", /\.lora_embedding_[AB](\.|$)/],
  ["trained embeddings of single tokens", /\.trainable_tokens_/],
  ["biases of the factors (lora_bias)", /\.lora_[AB](\.[^.]+)?\.bias$/],
  ["KaSA: trained singular values", /\.lora_diag(\.|$)/],
  ["MonteCLoRA: a sampler of factors", /\.lora_monteclora_/],
  ["trained biases", /\.bias$/],
  ["whole weights (modules_to_save, or saved embeddings)", /\.weight$|\.modules_to_save\./],
  ["tensors that lorafit does not know", /^/],
];

/**
 * Returns the factors' names by module, and the prefix of the modules. Throws UserError if the file has other
 * tensors: without them the adapter would be wrong.
 */
function factorNames(weights: Checkpoint): { factors: Map<string, Factors>; prefix: ModulePrefix } {
  const factors = new Map<string, Factors>();
  let prefix: ModulePrefix | undefined;
  const others = new Map<string, string[]>();
  for (const name of weights.names) {
    const [, peft, side] = FACTOR_KEY.exec(name) ?? [];
    if (peft === undefined) {
      if (TRAINING_KEY.test(name)) continue;
      const [kind] = OTHER_KINDS.find(([, pattern]) => pattern.test(name))!;
      others.set(kind, others.get(kind) ?? []);
      others.get(kind)!.push(name);
      continue;
    }
    const { module, ...split } = splitName(peft);
    prefix ??= split.prefix;
    const found = factors.get(module) ?? {};
    if (found[side as "A" | "B"])
      throw damaged(weights.place, `it has two tensors for lora_${side} of ${quoted(module)}`);
    factors.set(module, { ...found, [side!]: name });
  }
  refuseOthers(weights.place, others);
  if (factors.size > 0) return { factors, prefix: prefix ?? PLAIN_PREFIX };
  throw new UserError(`${weights.place}: it has no LoRA factors.`, {
    fix: "Copy the adapter's folder again, with all of its files.",
  });
}

function refuseOthers(place: string, others: ReadonlyMap<string, string[]>): void {
  if (others.size === 0) return;
  const kinds = [...others].map(([kind, names]) => {
    return `  ${kind}: ${plural(names.length, "tensor")}\n${linesOf(names.map(quoted))}`;
  });
  throw new UserError(
    `${place}: beside its LoRA factors the adapter has tensors that lorafit can't use:\n${kinds.join("\n")}`,
    {
      fix: FIX_UNUSABLE,
    },
  );
}

/**
 * Refuses empty tensors: DeepSpeed's ZeRO-3 leaves one in each process for every parameter that it has not
 * gathered.
 */
function refuseEmpty(weights: Checkpoint): void {
  const empty = weights.names.filter((name) => weights.entry(name).shape.includes(0));
  if (empty.length === 0) return;
  throw new UserError(
    `${weights.place}: ${empty.length} of ${plural(weights.names.length, "tensor")} are empty, as DeepSpeed's ZeRO-3 saves parameters that it has not gathered:\n${linesOf(empty.map(quoted), "  ")}`,
    {
      fix: 'Set "stage3_gather_16bit_weights_on_model_save": true in DeepSpeed\'s configuration and save again, or run its zero_to_fp32.py on the checkpoint.',
    },
  );
}

interface FactorChecks {
  scales: ReadonlyMap<string, ModuleScale>;
  /** Shapes of the model's weights, if the model is known. */
  shapes: ReadonlyMap<string, readonly number[]> | undefined;
}

function checkFactors(
  weights: Checkpoint,
  factors: Map<string, Factors>,
  { scales, shapes }: FactorChecks,
): void {
  const faults = [...factors].flatMap(([module, { A, B }]) => {
    if (!A || !B) return `${quoted(module)}: lora_${A ? "B" : "A"} is missing`;
    const [a, b] = [weights.entry(A), weights.entry(B)];
    const whole = [a, b].find(({ dtype }) => !/float/.test(dtype));
    if (whole) return `${quoted(module)}: a factor is ${whole.dtype}`;
    const { rank } = scales.get(module)!;
    const [rows, columns] = shapes ? shapeOf(module, shapes) : [b.shape[0], a.shape[1]];
    if (rows === undefined) return `${quoted(module)}: the model has no such linear layer`;
    if (isPooled(a.shape[1], columns)) {
      return `${quoted(module)}: A has ${a.shape[1]} columns, the layer ${columns} inputs: is it QALoRA, which averages inputs?`;
    }
    const fits = isShape(a.shape, [rank, columns]) && isShape(b.shape, [rows, rank]);
    return fits
      ? []
      : `${quoted(module)}: A [${a.shape}] and B [${b.shape}] instead of [${rank}, ${columns}] and [${rows}, ${rank}]`;
  });
  if (faults.length === 0) return;
  throw new UserError(`${weights.place}: its factors do not fit:\n${linesOf(faults, "  ")}`, {
    fix: "Use the base model and the configuration that it was trained with.",
  });
}

function shapeOf(module: string, shapes: ReadonlyMap<string, readonly number[]>): readonly number[] {
  const weight = findWeight(module, (name) => shapes.has(name));
  return weight === undefined ? [] : shapes.get(weight)!;
}

/** Whether inputs may have been averaged in groups, as QALoRA does: powers of two from 2 to 1024. */
function isPooled(columns: number | undefined, inputs: number | undefined): boolean {
  const group = (inputs ?? 0) / (columns || 1);
  return group > 1 && group <= 1024 && Number.isInteger(Math.log2(group));
}

function isShape(
  shape: readonly number[],
  [rows, columns]: readonly [number | undefined, number | undefined],
): boolean {
  return shape.length === 2 && shape[0] === rows && shape[1] === columns;
}

function configOf(json: PeftConfig): AdapterConfig {
  return {
    r: json.r,
    loraAlpha: json.lora_alpha,
    loraDropout: json.lora_dropout,
    targetModules: json.target_modules ?? [],
    useRslora: json.use_rslora,
    baseModel: json.base_model_name_or_path ?? "",
  };
}

/** Writes an adapter's files into a folder that is being written. */
export function writeAdapterFiles(folder: string, { config, prefix, modules }: Adapter): void {
  const tensors = [...modules].flatMap(([module, { a, b }]) => {
    const key = `base_model.model.${peftName(module, prefix)}`;
    return [[`${key}.lora_A.weight`, a] as const, [`${key}.lora_B.weight`, b] as const];
  });
  writeSafetensors(join(folder, "adapter_model.safetensors"), tensors, { format: "pt" });
  writeFileWhole(
    join(folder, CONFIG_FILE),
    `${JSON.stringify(peftConfig(config, modules, prefix), undefined, 2)}\n`,
  );
}

/** Returns every field that PEFT 0.10 writes, so that all later versions read it. */
function peftConfig(
  config: AdapterConfig,
  modules: Map<string, AdapterModule>,
  prefix: ModulePrefix,
): Record<string, unknown> {
  const { r, loraAlpha, loraDropout, targetModules, useRslora, baseModel } = config;
  const ranks = [...modules].map(([module, { a }]) => [peftName(module, prefix), a.shape[0]!] as const);
  const alphas = [...modules].map(([module, { a, scale }]) => {
    return [
      peftName(module, prefix),
      Number((scale * scaleDivisor(a.shape[0]!, useRslora)).toPrecision(12)),
    ] as const;
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
