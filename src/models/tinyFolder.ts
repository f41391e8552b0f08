/**
 * Small random checkpoints of families with a decoder in the layout of Llama. Weights keep the size of what
 * they pass on, as those of the first family do.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cannotWrite } from "../checkpoint/faults.ts";
import { makeFolder, requireNewFolder, writeFileWhole } from "../checkpoint/files/disk.ts";
import { writeShards } from "../checkpoint/files/safetensors.ts";
import { mixSeed } from "../nn/dropout.ts";
import { empty } from "../torch/create.ts";
import { createGenerator } from "../torch/random.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { TensorSpec } from "./family.ts";
import type { TinyOptions } from "./xcomposer2/tiny.ts";

/** A checkpoint as its folder holds it. */
export interface TinyFolder {
  /** Contents of JSON files by name. */
  files: Record<string, unknown>;
  /** Text of tokenizer.json. */
  tokenizer?: string | undefined;
  tensors: ReadonlyMap<string, TensorSpec>;
  /** Layers of the decoder and of the vision tower. */
  layers: number;
  towerLayers: number;
}

/** Writes a checkpoint folder that loadModel reads. */
export function writeTinyFolder(folder: string, parts: TinyFolder, options: TinyOptions): void {
  requireNewFolder(folder);
  try {
    makeFolder(folder);
    if (parts.tokenizer) writeFileSync(join(folder, "tokenizer.json"), parts.tokenizer);
  } catch (cause) {
    throw cannotWrite(folder, cause);
  }
  for (const [name, json] of Object.entries(parts.files))
    writeFileWhole(join(folder, name), `${JSON.stringify(json, undefined, 2)}\n`);
  const { dtype } = options;
  const sources = [...parts.tensors].map(([name, spec], index) => ({
    ...{ name, dtype, shape: spec.shape },
    read: () => randomWeight(name, spec, parts, mixSeed(BigInt(options.seed), index)).to({ dtype }),
  }));
  for (const _ of writeShards(folder, sources, options));
}

/** Returns the id of an added token: they are the last of the vocabulary. */
export function addedId<Token extends string>(token: Token, added: readonly Token[], vocab: number): number {
  return vocab - added.length + added.indexOf(token);
}

const NORMS = /(norm\d?|layernorm|layernorm_before|layernorm_after|ln_q)\.weight$/;

/** Factors of what a tower's layer adds to its states. */
const SCALES = /\.lambda_\d$/;

/** Linears whose output is added to the residual stream. */
const ADDING = /\.(o_proj|down_proj|attn\.proj|projection_layer|fc2|mlp\.linear_fc2)\.weight$/;

function randomWeight(name: string, spec: TensorSpec, parts: TinyFolder, seed: bigint): Tensor {
  return scope(() => {
    const weight = empty(spec.shape, { dtype: "float32", device: "cpu" });
    if (NORMS.test(name) || SCALES.test(name)) return weight.fill_(1);
    if (name.endsWith(".bias") && spec.part === "vision") return weight.zero_();
    using generator = createGenerator(seed, "cpu");
    return weight.normal_({ mean: 0, std: deviationOf(name, spec, parts), generator });
  });
}

/** Linears keep the size of what they pass on; those that add to the residual stream share it out. */
function deviationOf(name: string, { shape, part }: TensorSpec, { layers, towerLayers }: TinyFolder): number {
  const inputs = shape.slice(1).reduce((product, extent) => product * extent, 1);
  const kept = 1 / Math.sqrt(inputs);
  if (part === "embeddings") return 0.5;
  if (name.endsWith(".bias")) return 0.1;
  return ADDING.test(name) ? kept / Math.sqrt(2 * (part === "vision" ? towerLayers : layers)) : kept;
}
