/**
 * Reads the sizes of InternVL from a checkpoint folder: in the layout of transformers ("-hf"), with the
 * decoder in text_config, or in that of OpenGVLab's own code, with the decoder in llm_config.
 */
import { join } from "node:path";
import { z } from "zod";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { readTileRules, type TileRules } from "../../data/pictures/internvlTiles/tileRules.ts";
import { UserError } from "../../errors.ts";
import {
  checkLayerCount,
  checkLlamaHeads,
  eosIdsOf,
  LlamaJson,
  orDefault,
  parseJson,
  processorFile,
  readJson,
  ropeOf,
} from "../configJson.ts";
import { checkStoredTensors } from "../precision/storedBases.ts";
import {
  INTERNVL_NAME,
  type InternVlConfig,
  MERGE_SIDE,
  PRESETS,
  type TileTowerConfig,
  tokensOfTile,
} from "./spec.ts";
import { NAMES, OPTIONAL_TENSORS, tensors, VISION_NAMES } from "./tensors.ts";

const published = PRESETS["internvl3-8b"];

const positive = z.int().positive();
const off = orDefault(z.literal(false), false);
const on = orDefault(z.literal(true), true);

/** A side: one number, or both of a square. */
const Side = z.union([
  positive,
  z
    .tuple([positive, positive])
    .refine(([height, width]) => height === width, "is not square")
    .transform(([side]) => side),
]);

/** Values of both layouts that only one kind of model has. */
const TopJson = z.object({
  downsample_ratio: orDefault(z.literal(1 / MERGE_SIDE), 1 / MERGE_SIDE),
  tie_word_embeddings: z.boolean().nullish(),
  // transformers
  vision_feature_layer: orDefault(z.literal(-1), -1),
  vision_feature_select_strategy: orDefault(z.literal("default"), "default"),
  projector_hidden_act: orDefault(z.literal("gelu"), "gelu"),
  image_seq_length: positive.nullish(),
  // OpenGVLab
  select_layer: orDefault(z.literal(-1), -1),
  ps_version: orDefault(z.literal("v2"), "v2"),
  dynamic_image_size: on,
  use_thumbnail: on,
  min_dynamic_patch: positive.nullish(),
  max_dynamic_patch: positive.nullish(),
});

/** Decoders by the model_type of their configuration. */
const DECODERS = {
  qwen2: { qkvBias: true },
  qwen3: { qkvBias: false, hasHeadNorms: true },
  llama: { qkvBias: false },
} as const;

const TextJson = LlamaJson.extend({
  head_dim: positive.nullish(),
  attention_bias: off,
  mlp_bias: off,
  use_sliding_window: off,
});

const VisionJson = z.object({
  hidden_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  intermediate_size: positive,
  image_size: Side,
  patch_size: orDefault(Side, published.vision.patchPixels),
  norm_type: z.enum(["layer_norm", "rms_norm"]),
  layer_norm_eps: orDefault(z.number().positive(), published.vision.eps),
  hidden_act: orDefault(z.literal("gelu"), "gelu"),
  use_qk_norm: z.boolean(),
  attention_bias: z.boolean(),
  use_absolute_position_embeddings: on,
  use_mean_pooling: on, // otherwise a norm follows the last layer
});

type Json = Readonly<Record<string, unknown>>;

/** Reads and checks the sizes. Throws UserError if the folder's files do not agree with one another. */
export function readInternVlConfig(opened: ModelFolder): InternVlConfig {
  const { folder, config, weights } = opened;
  const file = join(folder, "config.json");
  const layout = layoutOf(config);
  const top = parseJson(TopJson, config, file);
  const values = partOf(config, layout === "hf" ? "text_config" : "llm_config");
  const decoder = decoderOf(values, file);
  const json = parseJson(TextJson, values, `${file}: ${layout === "hf" ? "text_config" : "llm_config"}`);
  const vision = readVision(partOf(config, "vision_config"), layout, `${file}: vision_config`);
  const generation =
    readJson(z.record(z.string(), z.unknown()), join(folder, "generation_config.json")) ?? {};
  const isTied = top.tie_word_embeddings ?? json.tie_word_embeddings;
  const model: InternVlConfig = {
    family: INTERNVL_NAME,
    layout,
    hidden: json.hidden_size,
    layers: json.num_hidden_layers,
    heads: json.num_attention_heads,
    kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim: json.head_dim ?? json.hidden_size / json.num_attention_heads,
    ffn: json.intermediate_size,
    vocab: json.vocab_size,
    rmsEps: json.rms_norm_eps,
    ...decoder,
    ...ropeOf(values, file, published),
    tiedHead: isTied && !weights.has(NAMES.head), // transformers 5 reads a head that is there
    bosId: json.bos_token_id ?? published.bosId,
    eosIds: eosIdsOf(generation, values, file, published.eosIds),
    vision,
    pictures: layout === "hf" ? readPictures(folder, vision) : picturesOf(vision, top),
  };
  checkLlamaHeads(model, file);
  checkTiles(model, top.image_seq_length, file);
  checkLayerCount(model.layers, NAMES.layers, opened, file);
  checkLayerCount(vision.layers, VISION_NAMES[layout].layers, opened, `${file}: vision_config`);
  checkStoredTensors(opened, tensors(model), OPTIONAL_TENSORS);
  return model;
}

/** Returns whose names and values a config.json has. */
export function layoutOf({ model_type: type }: Json): InternVlConfig["layout"] {
  return type === "internvl_chat" ? "original" : "hf";
}

function partOf(config: Json, key: string): Json {
  const part = config[key];
  return typeof part === "object" && part !== null ? (part as Json) : {};
}

/** Returns what a decoder has that others have not. */
function decoderOf(
  { model_type: type }: Json,
  file: string,
): Pick<InternVlConfig, "qkvBias" | "hasHeadNorms"> {
  const known = Object.entries(DECODERS).find(([name]) => name === type);
  if (known) return known[1];
  throw new UserError(`${file}: the decoder is of type "${type}", which lorafit does not support.`, {
    fix: "lorafit reads InternVL with a decoder of Qwen2.5, Qwen3 or Llama: InternVL3 and 3.5.",
  });
}

/** OpenGVLab's code has other names for two of the values. */
function readVision(said: Json, layout: InternVlConfig["layout"], place: string): TileTowerConfig {
  const { qk_normalization: use_qk_norm, qkv_bias: attention_bias, ...rest } = said;
  const json = parseJson(
    VisionJson,
    layout === "hf" ? said : { ...rest, use_qk_norm, attention_bias },
    place,
  );
  const { hidden_size: hidden, num_attention_heads: heads } = json;
  const { image_size: tilePixels, patch_size: patchPixels } = json;
  const fix = { fix: "Check that the configuration belongs to this checkpoint." };
  if (hidden % heads !== 0)
    throw new UserError(`${place}: ${heads} heads do not divide hidden_size ${hidden}.`, fix);
  if (tilePixels % (MERGE_SIDE * patchPixels) !== 0)
    throw new UserError(
      `${place}: tiles of ${tilePixels} pixels are no whole number of tokens of ${MERGE_SIDE * patchPixels}.`,
      fix,
    );
  return {
    ...{ hidden, heads, tilePixels, patchPixels },
    layers: json.num_hidden_layers,
    ffn: json.intermediate_size,
    norm: json.norm_type,
    qkNorm: json.use_qk_norm,
    qkvBias: json.attention_bias,
    eps: json.layer_norm_eps,
  };
}

/** Reads how the checkpoint lays out pictures, which has to fit its tower. */
function readPictures(folder: string, vision: TileTowerConfig): TileRules {
  const { file, json } = processorFile(folder);
  const rules = readTileRules(json, file, rulesOf(vision));
  if (rules.tilePixels === vision.tilePixels) return rules;
  throw new UserError(
    `${file}: tiles of ${rules.tilePixels} pixels are not those of config.json: ${vision.tilePixels}.`,
    { fix: "Download both files again; they belong together." },
  );
}

/** OpenGVLab's code has the limits in config.json; its preprocessor_config.json says nothing more. */
function picturesOf(vision: TileTowerConfig, top: z.output<typeof TopJson>): TileRules {
  const { minTiles, maxTiles } = published.pictures;
  return {
    ...rulesOf(vision),
    minTiles: top.min_dynamic_patch ?? minTiles,
    maxTiles: top.max_dynamic_patch ?? maxTiles,
  };
}

function rulesOf(vision: TileTowerConfig): TileRules {
  const { tilePixels, patchPixels } = vision;
  return { ...published.pictures, tilePixels, patchPixels, tileTokens: tokensOfTile(vision) };
}

/** Refuses a number of tokens a tile that the tower does not make. */
function checkTiles({ vision }: InternVlConfig, stated: number | null | undefined, file: string): void {
  const made = tokensOfTile(vision);
  if ((stated ?? made) === made) return;
  throw new UserError(`${file}: image_seq_length is ${stated}; a tile of the tower has ${made} tokens.`, {
    fix: "Check that the configuration belongs to this checkpoint.",
  });
}
