/**
 * Writes a checkpoint anew with its large matrices quantised. Memory holds one layer, the vision tower, the
 * embeddings or the head at a time.
 */
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Checkpoint } from "../../checkpoint/checkpoint.ts";
import {
  type AsideFolder,
  openAsideFolder,
  requireNewFolder,
  requireSpace,
  writeFileWhole,
} from "../../checkpoint/files/disk.ts";
import { shardName, writeSafetensors, writeShardIndex } from "../../checkpoint/files/safetensors.ts";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { copySmallFiles } from "../../checkpoint/merge.ts";
import { UserError } from "../../errors.ts";
import { relativeError } from "../../nn/frozen/frozen.ts";
import { type QuantizedMatrix, quantize } from "../../nn/frozen/quantized.ts";
import { NF4_BLOCK, type QuantizedPrecision, storedPrecision } from "../../nn/frozen/storedNames.ts";
import { quantizedTensors } from "../../nn/frozen/storedTensors.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { familyOfFolder, openFamilyFolder, readModelConfig, tensorsOf } from "../families.ts";
import type { Family, TensorSpec } from "../family.ts";
import type { Base, BasePart, HeadBase } from "./bases.ts";

export interface QuantizeOptions {
  /** Precision of the decoder's linears. */
  base: QuantizedPrecision;
  /** Precision of embeddings and head. Default: as they are. */
  headBase?: HeadBase | undefined;
  /** Precision of the linears of vision tower and projector. Default: as they are. */
  visionBase?: Base | undefined;
  /** Whether each matrix is compared with what becomes of it. */
  report?: boolean;
  /** After each matrix and each file; bytes of the checkpoint as it was. */
  onProgress?: (progress: { doneBytes: number; totalBytes: number }) => void;
  signal?: AbortSignal;
}

/** A quantised matrix, before and after. */
export interface MatrixReport {
  name: string;
  precision: QuantizedPrecision;
  beforeBytes: number;
  bytes: number;
  /** ||W - Q|| / ||W||; absent without a report. */
  relativeError?: number;
}

export interface QuantizeResult {
  matrices: MatrixReport[];
  /** Bytes of all tensors, before and after. */
  beforeBytes: number;
  bytes: number;
}

/**
 * Writes the checkpoint to outFolder, which must not have files yet, with the model folder's other files.
 * Returns to the event loop between layers, and leaves nothing behind if it fails. Throws UserError if the
 * checkpoint is quantised already.
 */
export async function quantizeCheckpoint(
  modelFolder: string,
  outFolder: string,
  options: QuantizeOptions,
): Promise<QuantizeResult> {
  requireNewFolder(outFolder);
  const model = openFamilyFolder(modelFolder);
  let aside: AsideFolder | undefined;
  try {
    const tensors = tensorsOf(readModelConfig(model));
    const result = { matrices: [], beforeBytes: 0, bytes: 0 };
    const writing: Writing = { model, tensors, options, result };
    const precisions = precisionsOf(writing);
    requireSpace(outFolder, expectedBytes(model.weights, precisions));
    aside = openAsideFolder(outFolder);
    const shards = shardsOf(writing);
    const shardOf = new Map<string, string>();
    for (const [index, names] of shards.entries()) {
      const file = shardName(index, shards.length);
      const written = await writeShard(join(aside.folder, file), names, precisions, writing);
      for (const name of written) shardOf.set(name, file);
    }
    if (shards.length > 1) writeShardIndex(aside.folder, shardOf, result.bytes);
    copySmallFiles(model.folder, aside.folder);
    writeConfig(aside.folder, model, options);
    aside.commit();
    return result;
  } finally {
    aside?.discard();
    model.weights.close();
  }
}

/** A checkpoint that is being written, and the result so far. */
interface Writing {
  model: ModelFolder;
  tensors: ReadonlyMap<string, TensorSpec>;
  options: QuantizeOptions;
  result: QuantizeResult;
}

/**
 * Returns the bytes of all tensors after quantising, rounded up: the margin is for scales of channels and
 * blocks, and for headers.
 */
function expectedBytes(weights: Checkpoint, precisions: ReadonlyMap<string, QuantizedPrecision>): number {
  const bytesOfNumber: Record<QuantizedPrecision, number> = { int8: 1, fp8: 1, nf4: 1 / 2 + 1 / NF4_BLOCK };
  const expected = weights.names.map((name) => {
    const { shape, bytes } = weights.entry(name);
    const precision = precisions.get(name);
    return precision ? shape.reduce((product, extent) => product * extent, bytesOfNumber[precision]) : bytes;
  });
  return expected.reduce((sum, bytes) => sum + bytes, 0) * 1.02;
}

/** Returns the matrices to quantise, by name. Throws UserError where one is quantised already. */
function precisionsOf({ model, tensors, options }: Writing): Map<string, QuantizedPrecision> {
  const asked: Partial<Record<BasePart, Base | undefined>> = options;
  const precisions = new Map<string, QuantizedPrecision>();
  for (const [name, { precision: part }] of tensors) {
    const precision = part && asked[part];
    if (precision && precision !== "bf16") precisions.set(name, precision);
  }
  const stored = [...precisions.keys()].find((name) => storedPrecision(name, model.weights));
  if (stored === undefined) return precisions;
  throw new UserError(`${model.folder} is quantised already: ${stored}.`, {
    fix: "Quantise the original checkpoint.",
  });
}

/**
 * Returns the names of each file's tensors: a file for each decoder layer and for the embeddings, one for
 * vision, one for the rest.
 */
function shardsOf({ model, tensors }: Writing): string[][] {
  const shards: Record<"embeddings" | "vision" | "rest", string[]> = { embeddings: [], vision: [], rest: [] };
  const layers: string[][] = [];
  for (const name of model.weights.names) {
    const { part = "rest", layer = 0 } = tensors.get(name) ?? {};
    const own = layers[layer] ?? [];
    if (part === "layer") layers[layer] = [...own, name];
    else shards[part === "norm" || part === "head" ? "rest" : part].push(name);
  }
  const { embeddings, vision, rest } = shards;
  return [embeddings, ...layers, vision, rest].filter((shard) => shard.length > 0);
}

/**
 * Writes a file, adds its matrices to the result, and returns the names of its tensors. Returns to the event
 * loop after each matrix.
 */
async function writeShard(
  path: string,
  names: readonly string[],
  precisions: ReadonlyMap<string, QuantizedPrecision>,
  writing: Writing,
): Promise<string[]> {
  const written: (readonly [string, Tensor])[] = [];
  try {
    for (const name of names) {
      written.push(...keep(scope(() => quantizedOrAsIs(name, precisions.get(name), writing))));
      if (precisions.has(name)) await breathe(writing);
    }
    writeSafetensors(path, written, { format: "pt" });
    writing.result.bytes += bytesOf(written);
    await breathe(writing);
    return written.map(([name]) => name);
  } finally {
    dispose(written);
  }
}

/** The tensors that stand for one of the checkpoint. */
function quantizedOrAsIs(
  name: string,
  precision: QuantizedPrecision | undefined,
  { model, options, result }: Writing,
): (readonly [string, Tensor])[] {
  const source = model.weights.tensor(name);
  result.beforeBytes += source.bytes;
  if (!precision) return [[name, source]];
  const matrix = quantize(source, precision, { device: "cpu" });
  const tensors = quantizedTensors(name, matrix, source.dtype);
  result.matrices.push(reportOf(name, source, matrix, tensors, options.report ?? false));
  return tensors;
}

/** Reports progress, and stops if the signal was given. */
async function breathe({ model: { weights }, options, result }: Writing): Promise<void> {
  const totalBytes = weights.names.reduce((sum, name) => sum + weights.entry(name).bytes, 0);
  options.onProgress?.({ doneBytes: result.beforeBytes, totalBytes });
  await setImmediate();
  options.signal?.throwIfAborted();
}

function reportOf(
  name: string,
  source: Tensor,
  matrix: QuantizedMatrix,
  tensors: (readonly [string, Tensor])[],
  report: boolean,
): MatrixReport {
  const { precision } = matrix;
  return {
    ...{ name, precision, beforeBytes: source.bytes, bytes: bytesOf(tensors) },
    ...(report && { relativeError: relativeError(source, matrix) }),
  };
}

function bytesOf(tensors: (readonly [string, Tensor])[]): number {
  return tensors.reduce((sum, [, { bytes }]) => sum + bytes, 0);
}

/** Names of the forms in other programs. lorafit itself goes by the names of the tensors. */
const QUANTIZATION_CONFIGS = {
  nf4: {
    quant_method: "bitsandbytes",
    load_in_4bit: true,
    bnb_4bit_quant_type: "nf4",
    bnb_4bit_use_double_quant: true,
    bnb_4bit_compute_dtype: "bfloat16",
    bnb_4bit_quant_storage: "uint8",
  },
  int8: { quant_method: "bitsandbytes", load_in_8bit: true },
  fp8: { quant_method: "lorafit", weights: "float8_e4m3fn", scales: "channel" },
} as const satisfies Record<QuantizedPrecision, Record<string, unknown>>;

function writeConfig(folder: string, model: ModelFolder, options: QuantizeOptions): void {
  const { config } = model;
  const quantization_config = quantizationConfig(familyOfFolder(model), options);
  writeFileWhole(
    join(folder, "config.json"),
    `${JSON.stringify({ ...config, quantization_config }, undefined, 2)}\n`,
  );
}

/**
 * Returns the config entry. bitsandbytes has one form for everything that it does not skip, so a tower in
 * another form than the decoder makes the folder one for lorafit alone.
 */
function quantizationConfig(
  { modulesInFull }: Family,
  { base, headBase, visionBase = "bf16" }: QuantizeOptions,
): object {
  const isOneForm = visionBase === "bf16" || visionBase === base;
  if (!isOneForm) return { quant_method: "lorafit", weights: base, vision: visionBase };
  if (base === "fp8") return QUANTIZATION_CONFIGS.fp8;
  const kept = [
    ...(visionBase === "bf16" ? modulesInFull.visionBase : []),
    ...modulesInFull.branches,
    ...(headBase === "int8" ? [] : modulesInFull.headBase),
  ];
  return { ...QUANTIZATION_CONFIGS[base], llm_int8_skip_modules: kept };
}
