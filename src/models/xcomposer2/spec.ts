/**
 * The model as tables: sizes, official tensor names, shapes.
 *
 * Dims legend, here and nowhere else: T tokens, C hidden, H query heads, G kv heads, Q = H/G query heads of a kv head,
 * D head dim, F feed-forward, V vocabulary, R LoRA rank, P image patches, N tiles. Source of the facts: the official modelling
 * code of InternLM-XComposer2 (PLoRA ranks and scalings of 4KHD: lmdeploy's turbomind configuration `_lora_cfg_4khd_7b`).
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { checkTensors } from "../../checkpoint/check.ts";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { UserError } from "../../errors.ts";
import { QUANTIZED_PRECISIONS, storedPrecision, storedShapes } from "../../nn/frozen/storedNames.ts";

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
  maxPositions: number;
  bosId: number;
  eosId: number;
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
    eosId: 2,
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
  num_key_value_heads: positive.optional(),
  intermediate_size: positive,
  vocab_size: positive,
  rms_norm_eps: z.number().positive().default(1e-5),
  rope_theta: z.number().positive().default(1e6),
  max_position_embeddings: positive.default(32768),
  bos_token_id: z.int().default(1),
  eos_token_id: z.int().default(2),
});
const VisionJson = z.object({
  hidden_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  intermediate_size: positive,
  image_size: z.literal(336).default(336),
  patch_size: z.literal(14).default(14),
  layer_norm_eps: z.number().positive().default(1e-5),
});
const PloraJson = z.record(z.string(), z.union([z.object({ scaling: z.number() }), z.string()]));

/**
 * Sizes of the model in a folder, from its config.json and the shapes of its tensors; vision_config.json and plora.json, which
 * the official layout lacks, say otherwise where they are present. Throws UserError where names or shapes do not agree with them.
 */
export function readModelConfig({ folder, config, weights }: ModelFolder): ModelConfig {
  const json = parseJson(ConfigJson, config, join(folder, "config.json"));
  const visionJson = readJson(VisionJson, join(folder, "vision_config.json"));
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
    ropeTheta: json.rope_theta,
    maxPositions: json.max_position_embeddings,
    bosId: json.bos_token_id,
    eosId: json.eos_token_id,
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
  if (!Number.isInteger(model.headDim) || model.heads % model.kvHeads !== 0) {
    throw new UserError(
      `${join(folder, "config.json")}: ${model.heads} heads and ${model.kvHeads} kv heads do not divide hidden size ${model.hidden}.`,
      { fix: "Check that config.json belongs to this checkpoint." },
    );
  }
  refuseOtherMethods(config, folder);
  const shapes = [...tensorShapes(model)].flatMap(([name, shape]) => storedShapes(name, shape, weights));
  checkTensors(weights, new Map(shapes), { optional: OPTIONAL_TENSORS });
  return model;
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

function readJson<S extends z.ZodType>(schema: S, file: string): z.output<S> | undefined {
  if (!existsSync(file)) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new UserError(`${file} is not JSON.`, {
      fix: "Download the file again.",
      cause,
    });
  }
  return parseJson(schema, json, file);
}

function parseJson<S extends z.ZodType>(schema: S, json: unknown, file: string): z.output<S> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UserError(`${file}: ${issue?.path.join(".")}: ${issue?.message}.`, {
    fix: "lorafit reads InternLM-XComposer2 checkpoints; check that the folder holds one.",
  });
}
