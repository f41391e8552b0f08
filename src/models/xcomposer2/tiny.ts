/**
 * Small random checkpoints in the official layout, to try things out on. Weights are drawn so that every
 * layer passes on values of about the size that it got (a deviation of 1 / sqrt(inputs)), and the head can
 * tell tokens apart: such a model learns within minutes.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { cannotWrite } from "../../checkpoint/faults.ts";
import { makeFolder, requireNewFolder, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { type TensorSource, writeShards } from "../../checkpoint/files/safetensors.ts";
import { UserError } from "../../errors.ts";
import { mixSeed } from "../../nn/dropout.ts";
import { empty } from "../../torch/create.ts";
import { createGenerator } from "../../torch/random.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { PRESETS, type XComposerConfig } from "./spec.ts";
import { LAYERS_PREFIX, tensors } from "./tensors.ts";

export interface TinyOptions {
  /** A published model of the XComposer line, whose pictures it reads; default: 4KHD. */
  preset?: keyof typeof PRESETS;
  hidden: number;
  layers: number;
  heads: number;
  kvHeads: number;
  ffn: number;
  vocab: number;
  /** Rank of PLoRA. In 4KHD, wqkv has the official 8. */
  ploraRank: number;
  visionHidden: number;
  visionLayers: number;
  visionHeads: number;
  visionFfn: number;
  /** Whether attention's linears have biases; default false. */
  bias?: boolean;
  dtype: "float32" | "bfloat16";
  /** With one seed and sizes the files are always the same. */
  seed: number;
  /** Bytes after which another shard begins. */
  shardBytes: number;
}

/** 3.9 million parameters. */
export const TINY: TinyOptions = {
  hidden: 256,
  layers: 4,
  heads: 8,
  kvHeads: 2,
  ffn: 704,
  vocab: 1024,
  ploraRank: 16,
  visionHidden: 64,
  visionLayers: 2,
  visionHeads: 4,
  visionFfn: 256,
  dtype: "float32",
  seed: 0,
  shardBytes: 2 ** 30,
};

/**
 * Writes a checkpoint folder that loadModel reads, with a tokenizer where its bytes are given. Throws
 * UserError on sizes that do not fit together and where the folder cannot be written.
 */
export function writeTinyCheckpoint(folder: string, options: TinyOptions, tokenizer?: Uint8Array): void {
  const config = tinyConfig(options);
  requireNewFolder(folder);
  try {
    makeFolder(folder);
    if (tokenizer) writeFileSync(join(folder, "tokenizer.model"), tokenizer);
  } catch (cause) {
    throw cannotWrite(folder, cause);
  }
  for (const [name, json] of Object.entries(jsonFiles(config, options))) {
    writeFileWhole(join(folder, name), `${JSON.stringify(json, undefined, 2)}\n`);
  }
  for (const _ of writeShards(folder, randomSources(config, options), options));
}

/** The model of these sizes. Throws UserError on sizes that do not fit together. */
export function tinyConfig(options: TinyOptions): XComposerConfig {
  const { hidden, layers, heads, kvHeads, ffn, vocab, ploraRank } = options;
  const { visionHidden, visionLayers, visionHeads, visionFfn } = options;
  checkDivides("--hidden", hidden, "2 x --heads", 2 * heads); // RoPE turns pairs
  checkDivides("--heads", heads, "--kv-heads", kvHeads);
  checkDivides("--vision-hidden", visionHidden, "--vision-heads", visionHeads);
  const { preset = "4khd-7b" } = options;
  const official = PRESETS[preset];
  const plora = { rank: ploraRank, scale: 1 };
  return {
    ...official,
    ...{ hidden, layers, heads, kvHeads, ffn, vocab, headDim: hidden / heads },
    ...(options.bias && { bias: true }),
    vision: {
      ...official.vision,
      ...{ hidden: visionHidden, layers: visionLayers, heads: visionHeads, ffn: visionFfn },
    },
    plora: {
      "attention.wqkv": preset === "4khd-7b" ? official.plora["attention.wqkv"] : plora,
      "attention.wo": plora,
      "feed_forward.w1": plora,
      "feed_forward.w2": plora,
      "feed_forward.w3": plora,
    },
  };
}

/** Throws UserError if a size is no multiple of another. */
export function checkDivides(name: string, value: number, divisorName: string, divisor: number): void {
  if (value % divisor === 0) return;
  throw new UserError(`${name} is ${value}, which ${divisorName} = ${divisor} does not divide.`, {
    fix: `Choose a multiple of ${divisor}.`,
  });
}

/** vision_config.json and plora.json say what the official code has built in, and its folders lack. */
function jsonFiles(config: XComposerConfig, { dtype }: TinyOptions): Record<string, unknown> {
  return {
    "config.json": languageJson(config, dtype),
    "vision_config.json": visionJson(config.vision),
    "plora.json": Object.fromEntries(
      Object.entries(config.plora).map(([name, { rank, scale }]) => [
        name,
        { r: rank, alpha: rank * scale, scaling: scale },
      ]),
    ),
    "generation_config.json": {
      bos_token_id: config.bosId,
      eos_token_id: config.eosIds[0],
      pad_token_id: config.eosIds[0],
    },
    "tokenizer_config.json": {
      add_bos_token: true,
      add_eos_token: false,
      bos_token: "<s>",
      eos_token: "</s>",
      pad_token: "</s>",
      unk_token: "<unk>",
      clean_up_tokenization_spaces: false,
      tokenizer_class: "InternLMXComposer2Tokenizer",
      auto_map: { AutoTokenizer: ["tokenization_internlm_xcomposer2.InternLMXComposer2Tokenizer", null] },
    },
  };
}

function languageJson(config: XComposerConfig, dtype: TinyOptions["dtype"]): Record<string, unknown> {
  const model = "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM";
  return {
    architectures: ["InternLM2ForCausalLM"],
    auto_map: {
      AutoConfig: "configuration_internlm_xcomposer2.InternLMXcomposer2Config",
      AutoModel: model,
      AutoModelForCausalLM: model,
    },
    model_type: "internlmxcomposer2",
    bias: config.bias ?? false,
    bos_token_id: config.bosId,
    eos_token_id: config.eosIds[0],
    pad_token_id: config.eosIds[0],
    hidden_act: "silu",
    hidden_size: config.hidden,
    initializer_range: 0.02,
    intermediate_size: config.ffn,
    max_length: 16384,
    max_position_embeddings: config.maxPositions,
    num_attention_heads: config.heads,
    num_hidden_layers: config.layers,
    num_key_value_heads: config.kvHeads,
    rms_norm_eps: config.rmsEps,
    rope_scaling: { factor: 1, type: "dynamic" },
    rope_theta: config.ropeTheta,
    tie_word_embeddings: false,
    torch_dtype: dtype,
    transformers_version: "4.33.1",
    use_cache: false,
    vocab_size: config.vocab,
  };
}

function visionJson(vision: XComposerConfig["vision"]): Record<string, unknown> {
  return {
    model_type: "clip_vision_model",
    hidden_act: "quick_gelu",
    hidden_size: vision.hidden,
    image_size: vision.imagePixels,
    intermediate_size: vision.ffn,
    layer_norm_eps: vision.eps,
    num_attention_heads: vision.heads,
    num_channels: 3,
    num_hidden_layers: vision.layers,
    patch_size: vision.patchPixels,
    projection_dim: vision.hidden,
  };
}

/** Every tensor of the model, drawn when its turn comes. */
function randomSources(config: XComposerConfig, { dtype, seed }: TinyOptions): TensorSource[] {
  return [...tensors(config)].map(([name, { shape }], index) => ({
    name,
    dtype,
    shape,
    read: () => randomWeight(name, shape, config, mixSeed(BigInt(seed), index)).to({ dtype }),
  }));
}

function randomWeight(name: string, shape: readonly number[], config: XComposerConfig, seed: bigint): Tensor {
  return scope(() => {
    const weight = empty(shape, { dtype: "float32", device: "cpu" });
    if (/norm\d?\.weight$/.test(name)) return weight.fill_(1);
    if (name.endsWith(".bias") && !name.startsWith(LAYERS_PREFIX)) return weight.zero_();
    using generator = createGenerator(seed, "cpu");
    return weight.normal_({ mean: 0, std: deviationOf(name, shape, config), generator });
  });
}

/**
 * Linears keep the size of what they pass on; those that add to the residual stream share it out over the
 * layers; PLoRA adds a little.
 */
function deviationOf(name: string, shape: readonly number[], { layers, vision }: XComposerConfig): number {
  const inputs = shape.slice(1).reduce((product, extent) => product * extent, 1);
  const kept = 1 / Math.sqrt(inputs);
  if (/embeddings?\.|_GN$/.test(name) && !name.includes("patch")) return 0.5;
  if (name.endsWith("Plora_B.weight")) return 0.1 * kept;
  if (name.endsWith(".bias")) return 0.1;
  if (/\.(wo|w2)\.weight$/.test(name)) return kept / Math.sqrt(2 * layers);
  if (/\.(out_proj|fc2)\.weight$/.test(name)) return kept / Math.sqrt(2 * vision.layers);
  return kept;
}
