/**
 * The tensors of InternVL by the names that transformers stores ("-hf"), or by those of OpenGVLab's own code.
 * Both name the decoder alike. transformers has other names in memory, which some checkpoints are saved with:
 * officialName knows them.
 */
import type { TensorSpec } from "../family.ts";
import { llamaLinears, llamaNames, llamaTensors, QWEN2_BIASED } from "../llamaDecoder.ts";
import { type InternVlConfig, MERGE_SIDE, type TileTowerConfig } from "./spec.ts";

export const LINEARS = llamaLinears<InternVlConfig>(({ qkvBias }) => (qkvBias ? QWEN2_BIASED : []));

export const NAMES = llamaNames("language_model.model.", "language_model.lm_head.weight");

/** Names of modules that bitsandbytes skips where lorafit leaves them in full. */
export const MODULES_IN_FULL = {
  visionBase: ["vision_tower", "multi_modal_projector", "vision_model", "mlp1"],
  headBase: ["lm_head"],
  branches: [],
} as const;

/** Tensors that some checkpoints have and nothing reads: a token for masked training. */
export const OPTIONAL_TENSORS = ["vision_tower.embeddings.mask_token"];

/** How a layout names the parts of tower and projector. A linear or norm is followed by its tensor's name. */
export interface VisionNames {
  classToken: string;
  positions: string;
  patch: string;
  /** Stands before the number of a layer. */
  layers: string;
  norms: readonly [attention: string, mlp: string];
  /** Linears that make queries, keys and values: three, or one for all. */
  qkv: readonly string[];
  qkNorms: readonly [queries: string, keys: string];
  out: string;
  scales: readonly [attention: string, mlp: string];
  projector: { norm: string; linears: readonly [string, string] };
}

/** Norms and linears within a layer have these names in both layouts. */
export const MLP_LINEARS = ["mlp.fc1", "mlp.fc2"] as const;

export const VISION_NAMES: Record<InternVlConfig["layout"], VisionNames> = {
  hf: {
    classToken: "vision_tower.embeddings.cls_token",
    positions: "vision_tower.embeddings.position_embeddings",
    patch: "vision_tower.embeddings.patch_embeddings.projection",
    layers: "vision_tower.encoder.layer.",
    norms: ["layernorm_before", "layernorm_after"],
    qkv: ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
    qkNorms: ["attention.q_norm", "attention.k_norm"],
    out: "attention.projection_layer",
    scales: ["lambda_1", "lambda_2"],
    projector: {
      norm: "multi_modal_projector.layer_norm",
      linears: ["multi_modal_projector.linear_1", "multi_modal_projector.linear_2"],
    },
  },
  original: {
    classToken: "vision_model.embeddings.class_embedding",
    positions: "vision_model.embeddings.position_embedding",
    patch: "vision_model.embeddings.patch_embedding",
    layers: "vision_model.encoder.layers.",
    norms: ["norm1", "norm2"],
    qkv: ["attn.qkv"],
    qkNorms: ["attn.q_norm", "attn.k_norm"],
    out: "attn.proj",
    scales: ["ls1", "ls2"],
    projector: { norm: "mlp1.0", linears: ["mlp1.1", "mlp1.3"] },
  },
};

/** Returns the stored name of a tensor that is saved under its name in the memory of transformers. */
export function officialName(stored: string): string {
  if (stored === "lm_head.weight") return NAMES.head;
  return stored
    .replace(/^model\.language_model\./, NAMES.embeddings.replace("embed_tokens.weight", ""))
    .replace(/^model\.(?=vision_tower\.|multi_modal_projector\.)/, "");
}

/** Returns every tensor of a checkpoint by its official name. */
export function tensors(config: InternVlConfig): Map<string, TensorSpec> {
  return new Map([...llamaTensors(config, NAMES, LINEARS), ...visionTensors(config)]);
}

function visionTensors({ vision, hidden, layout }: InternVlConfig): Map<string, TensorSpec> {
  const { hidden: width, ffn, patchPixels, tilePixels } = vision;
  const names = VISION_NAMES[layout];
  const patches = (tilePixels / patchPixels) ** 2;
  const merged = MERGE_SIDE ** 2 * width;
  const all = new Map<string, TensorSpec>();
  const add = (name: string, shape: number[], own: Partial<TensorSpec> = {}): void => {
    all.set(name, { shape, part: "vision", ...own });
  };
  const addNorm = (name: string, size: number, parts: readonly string[], own: Partial<TensorSpec> = {}) => {
    for (const part of parts) add(`${name}.${part}`, [size], own);
  };
  const addLinear = (
    name: string,
    shape: [number, number],
    { bias = true, ...own }: { bias?: boolean; layer?: number } = {},
  ): void => {
    add(`${name}.weight`, shape, { ...own, linear: name, precision: "visionBase" });
    if (bias) add(`${name}.bias`, [shape[0]], own);
  };
  add(names.classToken, [1, 1, width]);
  add(names.positions, [1, patches + 1, width]);
  add(`${names.patch}.weight`, [width, 3, patchPixels, patchPixels]);
  add(`${names.patch}.bias`, [width]);
  addNorm(names.projector.norm, merged, ["weight", "bias"]);
  addLinear(names.projector.linears[0], [hidden, merged]);
  addLinear(names.projector.linears[1], [hidden, hidden]);
  for (let layer = 0; layer < vision.layers; layer++) {
    const prefix = `${names.layers}${layer}.`;
    const own = { layer };
    for (const norm of names.norms) addNorm(`${prefix}${norm}`, width, normParts(vision), own);
    for (const linear of names.qkv) {
      const rows = (3 / names.qkv.length) * width;
      addLinear(`${prefix}${linear}`, [rows, width], { ...own, bias: vision.qkvBias });
    }
    if (vision.qkNorm) for (const norm of names.qkNorms) addNorm(`${prefix}${norm}`, width, ["weight"], own);
    addLinear(`${prefix}${names.out}`, [width, width], own);
    addLinear(`${prefix}${MLP_LINEARS[0]}`, [ffn, width], own);
    addLinear(`${prefix}${MLP_LINEARS[1]}`, [width, ffn], own);
    for (const scale of names.scales) add(`${prefix}${scale}`, [width], own);
  }
  return all;
}

function normParts({ norm }: TileTowerConfig): readonly string[] {
  return norm === "layer_norm" ? ["weight", "bias"] : ["weight"];
}
