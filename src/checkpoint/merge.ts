/**
 * Adds an adapter's factors to a checkpoint's weights, one tensor at a time, so that only a few are in
 * memory.
 */
import { copyFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { UserError } from "../errors.ts";
import { type Device, type DType, dtypeBytes } from "../torch/dtypes.ts";
import { dispose, keep, scope, type Tensor } from "../torch/tensor.ts";
import { findWeight } from "./adapter/moduleNames.ts";
import { type AdapterModule, readAdapter } from "./adapter/peft.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { numelOf } from "./dtypes.ts";
import { cannotWrite } from "./faults.ts";
import { type AsideFolder, openAsideFolder, requireNewFolder, writeFileWhole } from "./files/disk.ts";
import { type TensorSource, writeShards } from "./files/safetensors.ts";
import { isWeightsFile, type ModelFolder, openModelFolder } from "./folder.ts";

export interface MergeProgress {
  doneBytes: number;
  totalBytes: number;
}

export interface MergeOptions {
  /** Type of floating-point weights. Default: as stored. */
  dtype?: DType;
  /** Device that computes the sums. Default: the CPU. */
  device?: Device;
  shardBytes?: number;
  onProgress?: (progress: MergeProgress) => void;
  signal?: AbortSignal;
}

const DEFAULT_SHARD_BYTES = 5e9;

/**
 * Writes a Hugging Face checkpoint to outFolder, which must be empty or missing: weights W + scale * B A as
 * safetensors, and the model folder's other files unchanged. Lets the event loop run between tensors, and
 * leaves nothing behind if it fails.
 */
export async function mergeCheckpoint(
  modelFolder: string,
  adapterFolder: string,
  outFolder: string,
  options: MergeOptions = {},
): Promise<void> {
  requireNewFolder(outFolder);
  const model = openModelFolder(modelFolder);
  const modules = new Map<string, AdapterModule>();
  try {
    refuseQuantized(model);
    const shapes = new Map(model.weights.names.map((name) => [name, model.weights.entry(name).shape]));
    const adapter = keep(scope(() => readAdapter(adapterFolder, { shapes })));
    for (const [module, factors] of adapter.modules)
      modules.set(findWeight(module, (name) => shapes.has(name))!, factors);
    const sources = model.weights.names.map((name) =>
      sourceOf(model.weights, name, modules.get(name), options),
    );
    const aside = openAsideFolder(outFolder);
    try {
      await writeModel(aside, model, sources, options);
      aside.commit();
    } finally {
      aside.discard();
    }
  } finally {
    dispose(modules);
    model.weights.close();
  }
}

/** Throws UserError if the weights are quantised: an adapter can only be added to full weights. */
function refuseQuantized({ folder, config }: ModelFolder): void {
  if (config.quantization_config === undefined) return;
  throw new UserError(`${folder} is quantised: an adapter can't be added into it.`, {
    fix: "Merge into the checkpoint with the full weights that it was made from.",
  });
}

async function writeModel(
  { folder }: AsideFolder,
  model: ModelFolder,
  sources: TensorSource[],
  { dtype, shardBytes = DEFAULT_SHARD_BYTES, onProgress, signal }: MergeOptions,
): Promise<void> {
  copySmallFiles(model.folder, folder);
  if (dtype) {
    const field = "dtype" in model.config ? "dtype" : "torch_dtype"; // transformers 5, and before
    const config = { ...model.config, [field]: dtype };
    writeFileWhole(join(folder, "config.json"), `${JSON.stringify(config, undefined, 2)}\n`);
  }
  const totalBytes = sources.reduce(
    (sum, source) => sum + numelOf(source.shape) * dtypeBytes(source.dtype),
    0,
  );
  let doneBytes = 0;
  for (const bytes of writeShards(folder, sources, { shardBytes })) {
    doneBytes += bytes;
    onProgress?.({ doneBytes, totalBytes });
    await setImmediate();
    signal?.throwIfAborted();
  }
}

function sourceOf(
  weights: Checkpoint,
  name: string,
  factors: AdapterModule | undefined,
  { dtype, device = "cpu" }: MergeOptions,
): TensorSource {
  const entry = weights.entry(name);
  const target = dtype && isFloating(entry.dtype) ? dtype : entry.dtype;
  const read = (): Tensor => {
    const weight = weights.tensor(name);
    return (factors ? merged(weight, factors, device) : weight).to({ dtype: target }).to({ device: "cpu" });
  };
  return { name, dtype: target, shape: entry.shape, read };
}

/** Returns the sum in float32 on the device. weight: (out, in), of any type. */
function merged(weight: Tensor, { a, b, scale }: AdapterModule, device: Device): Tensor {
  const sum = weight.to({ device, dtype: "float32", copy: true });
  return sum.addmm_(b.to({ device }), a.to({ device }), { alpha: scale });
}

function isFloating(dtype: DType): boolean {
  return dtype.startsWith("float") || dtype === "bfloat16";
}

/** Copies every file of the folder itself that is not weights: configuration, tokenizer, code and notes. */
export function copySmallFiles(from: string, to: string): void {
  for (const name of readdirSync(from)) {
    const path = join(from, name);
    if (isWeightsFile(name) || !statSync(path).isFile()) continue;
    try {
      copyFileSync(path, join(to, name));
    } catch (cause) {
      throw cannotWrite(join(to, name), cause);
    }
  }
}
