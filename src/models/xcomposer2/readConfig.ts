/** Reads the sizes of a model from its checkpoint folder. */
import { join } from "node:path";
import { z } from "zod";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { UserError } from "../../errors.ts";
import {
  checkLayerCount,
  eosIdsOf,
  orDefault,
  parseJson,
  readJson,
  ropeOf,
  textValues,
} from "../configJson.ts";
import { checkStoredTensors } from "../precision/storedBases.ts";
import {
  CLIP_VIT_L_14_336,
  type PloraConfig,
  PRESETS,
  TOWERS_BY_POSITIONS,
  type VisionConfig,
  XCOMPOSER_LINEARS,
  type XComposerConfig,
  type XComposerLinear,
} from "./spec.ts";
import {
  LAYERS_PREFIX,
  linearPrefix,
  OPTIONAL_TENSORS,
  PLORA_NAMES,
  POSITIONS_NAME,
  tensors,
  VISION_LAYER_PREFIX,
} from "./tensors.ts";

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
  bias: orDefault(z.boolean(), false),
});
const VisionJson = z.object({
  hidden_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  intermediate_size: positive,
  image_size: orDefault(z.union([z.literal(336), z.literal(490), z.literal(560)]), 336),
  patch_size: orDefault(z.literal(14), 14),
  layer_norm_eps: orDefault(z.number().positive(), 1e-5),
  hidden_act: orDefault(z.literal("quick_gelu"), "quick_gelu"),
});
const PloraJson = z.record(z.string(), z.union([z.object({ scaling: z.number() }), z.string()]));

/**
 * Reads the sizes of the model in a folder from its config.json and the shapes of its tensors.
 * vision_config.json and plora.json, which official folders lack, take precedence. Throws UserError if names
 * or shapes do not agree.
 */
export function readXComposerConfig(opened: ModelFolder): XComposerConfig {
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
  const model: XComposerConfig = {
    family: "xcomposer2-4khd",
    hidden: json.hidden_size,
    layers: json.num_hidden_layers,
    heads: json.num_attention_heads,
    kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim: json.hidden_size / json.num_attention_heads,
    ffn: json.intermediate_size,
    vocab: json.vocab_size,
    rmsEps: json.rms_norm_eps,
    ...(json.bias && { bias: true }),
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
          ...(visionJson.image_size === 490 && { isWhole: true }),
        }
      : towerOf(shape(POSITIONS_NAME)[0], folder),
    plora: ploraOf((name) => shape(`${linearPrefix(0, name)}${PLORA_NAMES.a}`)[0], ploraJson),
  };
  checkHeads(model, json.head_dim ?? model.headDim, { file, visionFile });
  checkLayerCount(model.layers, LAYERS_PREFIX, opened, file);
  checkLayerCount(
    model.vision.layers,
    VISION_LAYER_PREFIX,
    opened,
    visionJson ? visionFile : "the official vision tower",
  );
  checkStoredTensors(opened, tensors(model), OPTIONAL_TENSORS);
  return model;
}

/** Returns the official tower with so many positions; 4KHD's for a checkpoint that has none. */
function towerOf(positions: number | undefined, folder: string): VisionConfig {
  const known = positions === undefined ? CLIP_VIT_L_14_336 : TOWERS_BY_POSITIONS.get(positions);
  if (known) return known;
  throw new UserError(
    `${folder}: the vision tower has ${positions} positions, which no model that lorafit reads has: InternLM-XComposer2-4KHD has 577, VL has 1,226, 2.5 has 1,601.`,
    { fix: "Use a checkpoint of one of these." },
  );
}

/**
 * Refuses numbers of heads that do not divide the sizes, and heads of an odd size, since rotary positions
 * turn pairs of dims.
 */
function checkHeads(
  { hidden, heads, kvHeads, headDim, vision }: XComposerConfig,
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

/** 4KHD has wqkv at rank 8 and scaling 2; the plain VL models have rank 256 and scaling 1 everywhere. */
function ploraOf(
  rankOf: (name: XComposerLinear) => number | undefined,
  json: z.output<typeof PloraJson> | undefined,
): Record<XComposerLinear, PloraConfig> {
  const entries = XCOMPOSER_LINEARS.map((name) => {
    const official = PRESETS["4khd-7b"].plora[name];
    const rank = rankOf(name) ?? official.rank;
    const stated = json?.[name];
    const scale = typeof stated === "object" ? stated.scaling : rank === official.rank ? official.scale : 1;
    return [name, { rank, scale }] as const;
  });
  return Object.fromEntries(entries) as Record<XComposerLinear, PloraConfig>;
}
