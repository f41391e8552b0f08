/**
 * The model as tables: sizes, official tensor names, shapes.
 *
 * Dims legend, here and nowhere else: T tokens, C hidden, H query heads, G kv heads, Q = H/G query heads of a kv head,
 * D head dim, F feed-forward, V vocabulary, R LoRA rank, P image patches, N tiles. Source of the facts: the official modelling
 * code of InternLM-XComposer2 (PLoRA ranks and scalings of 4KHD: lmdeploy's turbomind configuration `_lora_cfg_4khd_7b`).
 */
import { join } from "node:path";
import { z } from "zod";
import { checkTensors } from "../../checkpoint/check.ts";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { UserError } from "../../errors.ts";
import type { RopeScaling } from "../../nn/attention/rope.ts";
import { QUANTIZED_PRECISIONS, storedPrecision, storedShapes } from "../../nn/frozen/storedNames.ts";
import {
  checkLayerCount,
  eosIdsOf,
  orDefault,
  parseJson,
  readJson,
  ropeOf,
  textValues,
} from "../configJson.ts";

/** How frozen matrices are held; bf16 stands for the compute dtype. */
export const BASES = ["bf16", ...QUANTIZED_PRECISIONS] as const;
export type Base = (typeof BASES)[number];
/** Embeddings and head have fewer choices: single rows of them are read. */
export const HEAD_BASES = ["bf16", "int8"] as const;
export type HeadBase = (typeof HEAD_BASES)[number];

/** What the parts of the frozen model are held in; left out: as the checkpoint has them. */
export interface Bases {
  /** Of the decoder's linears. */
  base?: Base | undefined;
  /** Of embeddings and head. */
  headBase?: HeadBase | undefined;
  /** Of the linears of vision tower and projector. */
  visionBase?: Base | undefined;
}

export const LINEAR_NAMES = [
  "attention.wqkv",
  "attention.wo",
  "feed_forward.w1",
  "feed_forward.w2",
  "feed_forward.w3",
] as const;

/** The linears of a decoder layer, each with PLoRA, each a LoRA target. */
export type LinearName = (typeof LINEAR_NAMES)[number];

export interface PloraConfig {
  rank: number;
  scale: number;
}

export interface VisionConfig {
  hidden: number;
  layers: number;
  heads: number;
  ffn: number;
  imagePixels: number;
  patchPixels: number;
  eps: number;
}

export interface ModelConfig {
  hidden: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  ffn: number;
  vocab: number;
  rmsEps: number;
  ropeTheta: number;
  ropeScaling?: RopeScaling;
  maxPositions: number;
  bosId: number;
  /** Ids that end an answer, if there is no tokenizer to ask. */
  eosIds: readonly number[];
  vision: VisionConfig;
  plora: Record<LinearName, PloraConfig>;
}

const CLIP_VIT_L_14_336: VisionConfig = {
  hidden: 1024,
  layers: 24,
  heads: 16,
  ffn: 4096,
  imagePixels: 336,
  patchPixels: 14,
  eps: 1e-5,
};

/** Models that can be planned without a checkpoint. */
export const PRESETS = {
  "4khd-7b": {
    hidden: 4096,
    layers: 32,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    ffn: 14336,
    vocab: 92544,
    rmsEps: 1e-5,
    ropeTheta: 1e6,
    maxPositions: 32768,
    bosId: 1,
    ropeScaling: { kind: "dynamic", factor: 1 },
    eosIds: [2],
    vision: CLIP_VIT_L_14_336,
    plora: {
      "attention.wqkv": { rank: 8, scale: 2 },
      "attention.wo": { rank: 256, scale: 1 },
      "feed_forward.w1": { rank: 256, scale: 1 },
      "feed_forward.w2": { rank: 256, scale: 1 },
      "feed_forward.w3": { rank: 256, scale: 1 },
    },
  },
} as const satisfies Record<string, ModelConfig>;

/** [rows, columns] of a layer's linear: it maps columns features to rows features. */
export function linearShape(config: ModelConfig, name: LinearName): readonly [rows: number, columns: number] {
  const { hidden, ffn, heads, kvHeads, headDim } = config;
  // biome-ignore format: columns line up
  const shapes: Record<LinearName, readonly [number, number]> = {
    "attention.wqkv":  [(heads + 2 * kvHeads) * headDim, hidden],
    "attention.wo":    [hidden,                          heads * headDim],
    "feed_forward.w1": [ffn,                             hidden],
    "feed_forward.w2": [hidden,                          ffn],
    "feed_forward.w3": [ffn,                             hidden],
  };
  return shapes[name];
}

export const VISION_PREFIX = "vit.vision_tower.vision_model.";

const VISION_LAYER_PREFIX = `${VISION_PREFIX}encoder.layers.`;

/** The linears of a layer of the vision tower. */
export const VISION_LINEAR_NAMES = [
  "self_attn.q_proj",
  "self_attn.k_proj",
  "self_attn.v_proj",
  "self_attn.out_proj",
  "mlp.fc1",
  "mlp.fc2",
] as const;
export type VisionLinearName = (typeof VISION_LINEAR_NAMES)[number];

/** The linears that take merged patches to the decoder's width. */
export const PROJECTOR_NAMES = ["vision_proj.0", "vision_proj.2"] as const;

/** What names of a layer of the vision tower begin with. */
export function visionLayerPrefix(layer: number): string {
  return `${VISION_LAYER_PREFIX}${layer}.`;
}

/** Whether a tensor is one of the matrices that visionBase is about: linears of tower and projector, not the convolution of patches. */
export function isVisionLinear(name: string): boolean {
  const module = name.replace(/\.weight$/, "");
  if (module === name) return false;
  const linear = module.startsWith(VISION_LAYER_PREFIX)
    ? module.slice(VISION_LAYER_PREFIX.length).replace(/^\d+\./, "")
    : module;
  return [...VISION_LINEAR_NAMES, ...PROJECTOR_NAMES].some((known) => known === linear);
}
/** Some exports carry it; features are read before it, so it is neither needed nor refused. */
const OPTIONAL_TENSORS = [
  `${VISION_PREFIX}post_layernorm.weight`,
  `${VISION_PREFIX}post_layernorm.bias`,
  `${VISION_PREFIX}embeddings.position_ids`,
];

/** Every tensor of a checkpoint: official name -> shape. */
export function tensorShapes(config: ModelConfig): Map<string, number[]> {
  const { hidden, vocab, layers } = config;
  const shapes = new Map<string, number[]>([
    ["model.tok_embeddings.weight", [vocab, hidden]],
    ["model.norm.weight", [hidden]],
    ["output.weight", [vocab, hidden]],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    shapes.set(`${prefix}attention_norm.weight`, [hidden]);
    shapes.set(`${prefix}ffn_norm.weight`, [hidden]);
    for (const name of LINEAR_NAMES) {
      const [rows, columns] = linearShape(config, name);
      const { rank } = config.plora[name];
      shapes.set(`${prefix}${name}.weight`, [rows, columns]);
      shapes.set(`${prefix}${name}.Plora_A.weight`, [rank, columns]);
      shapes.set(`${prefix}${name}.Plora_B.weight`, [rows, rank]);
    }
  }
  return new Map([...shapes, ...visionShapes(config)]);
}

function visionShapes({ vision, hidden }: ModelConfig): Map<string, number[]> {
  const { hidden: width, ffn, patchPixels, imagePixels } = vision;
  const patches = (imagePixels / patchPixels) ** 2;
  const merged = 4 * width; // a 2x2 square of patches becomes one token
  const shapes = new Map<string, number[]>([
    [`${VISION_PREFIX}embeddings.class_embedding`, [width]],
    [`${VISION_PREFIX}embeddings.patch_embedding.weight`, [width, 3, patchPixels, patchPixels]],
    [`${VISION_PREFIX}embeddings.position_embedding.weight`, [patches + 1, width]],
    [`${VISION_PREFIX}pre_layrnorm.weight`, [width]],
    [`${VISION_PREFIX}pre_layrnorm.bias`, [width]],
    ["plora_glb_GN", [1, 1, merged]],
    ["plora_sub_GN", [1, 1, 1, merged]],
    ["vision_proj.0.weight", [hidden, merged]],
    ["vision_proj.0.bias", [hidden]],
    ["vision_proj.2.weight", [hidden, hidden]],
    ["vision_proj.2.bias", [hidden]],
  ]);
  const square = [width, width];
  const linears: Record<VisionLinearName, number[]> = {
    "self_attn.q_proj": square,
    "self_attn.k_proj": square,
    "self_attn.v_proj": square,
    "self_attn.out_proj": square,
    "mlp.fc1": [ffn, width],
    "mlp.fc2": [width, ffn],
  };
  const norms = { layer_norm1: [width], layer_norm2: [width] };
  for (let layer = 0; layer < vision.layers; layer++) {
    for (const [name, shape] of Object.entries({ ...norms, ...linears })) {
      shapes.set(`${visionLayerPrefix(layer)}${name}.weight`, shape);
      shapes.set(`${visionLayerPrefix(layer)}${name}.bias`, shape.slice(0, 1));
    }
  }
  return shapes;
}

const positive = z.int().positive();

const ConfigJson = z.object({
  hidden_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.nullish(),
  head_dim: positive.nullish(),
  intermediate_size: positive,
  vocab_size: positive,
  rms_norm_eps: orDefault(z.number().positive(), 1e-5),
  bos_token_id: z.int().nullish(),
  hidden_act: orDefault(z.literal("silu"), "silu"),
});
const VisionJson = z.object({
  hidden_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  intermediate_size: positive,
  image_size: orDefault(z.literal(336), 336),
  patch_size: orDefault(z.literal(14), 14),
  layer_norm_eps: orDefault(z.number().positive(), 1e-5),
  hidden_act: orDefault(z.literal("quick_gelu"), "quick_gelu"),
});
const PloraJson = z.record(z.string(), z.union([z.object({ scaling: z.number() }), z.string()]));

/**
 * Sizes of the model in a folder, from its config.json and the shapes of its tensors; vision_config.json and plora.json, which
 * the official layout lacks, say otherwise where they are present. Throws UserError where names or shapes do not agree with them.
 */
export function readModelConfig(opened: ModelFolder): ModelConfig {
  const { folder, config, weights } = opened;
  const official = PRESETS["4khd-7b"];
  const file = join(folder, "config.json");
  const visionFile = join(folder, "vision_config.json");
  const values = textValues(config);
  const json = parseJson(ConfigJson, values, file);
  const visionJson = readJson(VisionJson, visionFile);
  const generation =
    readJson(z.record(z.string(), z.unknown()), join(folder, "generation_config.json")) ?? {};
  const bosId = json.bos_token_id ?? generation.bos_token_id ?? official.bosId;
  const ploraJson = readJson(PloraJson, join(folder, "plora.json"));
  const shape = (name: string): number[] => (weights.has(name) ? weights.entry(name).shape : []);
  const model: ModelConfig = {
    hidden: json.hidden_size,
    layers: json.num_hidden_layers,
    heads: json.num_attention_heads,
    kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim: json.hidden_size / json.num_attention_heads,
    ffn: json.intermediate_size,
    vocab: json.vocab_size,
    rmsEps: json.rms_norm_eps,
    ...ropeOf(values, file, official),
    bosId: typeof bosId === "number" ? bosId : official.bosId,
    eosIds: eosIdsOf(values, generation, file, official.eosIds),
    vision: visionJson
      ? {
          hidden: visionJson.hidden_size,
          layers: visionJson.num_hidden_layers,
          heads: visionJson.num_attention_heads,
          ffn: visionJson.intermediate_size,
          imagePixels: visionJson.image_size,
          patchPixels: visionJson.patch_size,
          eps: visionJson.layer_norm_eps,
        }
      : CLIP_VIT_L_14_336,
    plora: ploraOf((name) => shape(`model.layers.0.${name}.Plora_A.weight`)[0], ploraJson),
  };
  checkHeads(model, json.head_dim ?? model.headDim, { file, visionFile });
  checkLayerCount(model.layers, "model.layers.", opened, file);
  checkLayerCount(
    model.vision.layers,
    VISION_LAYER_PREFIX,
    opened,
    visionJson ? visionFile : "the official vision tower",
  );
  refuseOtherMethods(config, folder);
  const shapes = [...tensorShapes(model)].flatMap(([name, shape]) => storedShapes(name, shape, weights));
  checkTensors(weights, new Map(shapes), { optional: OPTIONAL_TENSORS });
  return model;
}

/** Refuses numbers of heads that do not divide the sizes, and heads that rotary positions can't turn: pairs of dims. */
function checkHeads(
  { hidden, heads, kvHeads, headDim, vision }: ModelConfig,
  statedHeadDim: number,
  { file, visionFile }: { file: string; visionFile: string },
): void {
  const fix = { fix: "Check that the configuration belongs to this checkpoint." };
  if (!Number.isInteger(headDim) || heads % kvHeads !== 0) {
    throw new UserError(
      `${file}: ${heads} heads and ${kvHeads} kv heads do not divide hidden size ${hidden}.`,
      fix,
    );
  }
  if (headDim % 2 !== 0 || statedHeadDim !== headDim) {
    throw new UserError(
      `${file}: a head of ${statedHeadDim} dims does not fit ${heads} heads of hidden size ${hidden}.`,
      fix,
    );
  }
  if (vision.hidden % vision.heads !== 0) {
    throw new UserError(
      `${visionFile}: ${vision.heads} heads do not divide hidden size ${vision.hidden}.`,
      fix,
    );
  }
}

/** What quantised a checkpoint, where that is nothing whose tensors are known here. */
function refuseOtherMethods({ quantization_config: said }: Record<string, unknown>, folder: string): void {
  const method = typeof said === "object" && said !== null && "quant_method" in said && said.quant_method;
  if (typeof method !== "string" || method === "bitsandbytes" || method === "lorafit") return;
  throw new UserError(`${folder} is quantised by ${method}, which lorafit does not read.`, {
    fix: "Start from the unquantised checkpoint, with --base nf4 or int8 for fewer bits.",
  });
}

/** What the parts of a checkpoint are held in where nothing else is asked for; undefined: in full. */
export function storedBases(weights: ModelFolder["weights"]): Bases {
  const head = storedPrecision("output.weight", weights);
  return {
    base: storedPrecision(FIRST_LINEAR, weights),
    headBase: isHeadBase(head) ? head : undefined,
    visionBase: storedVision(weights),
  };
}

/** What all linears of tower and projector are stored in; where they differ they are read in full, so that layers are alike. */
function storedVision(weights: ModelFolder["weights"]): Base | undefined {
  const [first, ...others] = new Set(
    weights.names.filter(isVisionLinear).map((name) => storedPrecision(name, weights)),
  );
  return others.length === 0 ? first : undefined;
}

/** Whether embeddings and head can be held so. */
export function isHeadBase(precision: string | undefined): precision is HeadBase {
  return HEAD_BASES.some((known) => known === precision);
}

/** Whether an NF4 checkpoint has its absmax in full, of which 8 bits are kept. */
export function hasFullAbsmax(weights: ModelFolder["weights"]): boolean {
  return [FIRST_LINEAR, FIRST_VISION_LINEAR].some(
    (name) => storedPrecision(name, weights) === "nf4" && !weights.has(`${name}.nested_absmax`),
  );
}

const FIRST_LINEAR = "model.layers.0.attention.wqkv.weight";
const FIRST_VISION_LINEAR = `${visionLayerPrefix(0)}${VISION_LINEAR_NAMES[0]}.weight`;

/** 4KHD has wqkv at rank 8 and scaling 2; the plain VL models have rank 256 and scaling 1 everywhere. */
function ploraOf(
  rankOf: (name: LinearName) => number | undefined,
  json: z.output<typeof PloraJson> | undefined,
): Record<LinearName, PloraConfig> {
  const entries = LINEAR_NAMES.map((name) => {
    const official = PRESETS["4khd-7b"].plora[name];
    const rank = rankOf(name) ?? official.rank;
    const stated = json?.[name];
    const scale = typeof stated === "object" ? stated.scaling : rank === official.rank ? official.scale : 1;
    return [name, { rank, scale }] as const;
  });
  return Object.fromEntries(entries) as Record<LinearName, PloraConfig>;
}
