/**
 * Reads the sizes of Qwen2.5-VL from a checkpoint folder. config.json is flat as transformers 4 writes it, or
 * has the decoder in text_config, as from 4.52 on.
 */
import { join } from "node:path";
import { z } from "zod";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { UserError } from "../../errors.ts";
import {
  checkLayerCount,
  checkLlamaHeads,
  eosIdsOf,
  LlamaJson,
  mropeOf,
  orDefault,
  parseJson,
  readJson,
  textValues,
  tiedHeadOf,
} from "../configJson.ts";
import { checkPatchTower, readPatchPictures } from "../patchConfig.ts";
import { checkStoredTensors } from "../precision/storedBases.ts";
import { axesOf, PRESETS, QWEN2_5_VL_NAME, type Qwen2_5VlConfig, type WindowTowerConfig } from "./spec.ts";
import { NAMES, optionalTensors, tensors, VISION_LAYERS_PREFIX } from "./tensors.ts";

const published = PRESETS["qwen2.5-vl-7b"];

const positive = z.int().positive();

const ConfigJson = LlamaJson.extend({ use_sliding_window: orDefault(z.literal(false), false) });

const VisionJson = z.object({
  depth: positive,
  hidden_size: positive,
  num_heads: positive,
  intermediate_size: positive,
  out_hidden_size: positive,
  patch_size: orDefault(positive, published.vision.patchPixels),
  spatial_merge_size: orDefault(positive, published.vision.mergeSide),
  temporal_patch_size: orDefault(z.literal(2), 2),
  window_size: orDefault(positive, published.vision.windowPixels),
  fullatt_block_indexes: z.array(z.int().nonnegative()),
  hidden_act: orDefault(z.literal("silu"), "silu"),
});

/** Reads and checks the sizes. Throws UserError if the folder's files do not agree with one another. */
export function readQwen2_5VlConfig(opened: ModelFolder): Qwen2_5VlConfig {
  const { folder, config } = opened;
  const file = join(folder, "config.json");
  const values = textValues(config);
  const json = parseJson(ConfigJson, values, file);
  const vision = readVision(config.vision_config, json.hidden_size, file);
  const generation =
    readJson(z.record(z.string(), z.unknown()), join(folder, "generation_config.json")) ?? {};
  const headDim = json.hidden_size / json.num_attention_heads;
  const { sections, isInterleaved, ...rope } = mropeOf(values, file, published);
  if (isInterleaved) throw interleaved(file);
  const model: Qwen2_5VlConfig = {
    family: QWEN2_5_VL_NAME,
    hidden: json.hidden_size,
    layers: json.num_hidden_layers,
    heads: json.num_attention_heads,
    kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim,
    ffn: json.intermediate_size,
    vocab: json.vocab_size,
    rmsEps: json.rms_norm_eps,
    ...rope,
    axisOfPair: axesOf(sections),
    tiedHead: tiedHeadOf(config, json.tie_word_embeddings),
    bosId: json.bos_token_id ?? published.bosId,
    eosIds: eosIdsOf(generation, values, file, published.eosIds),
    vision,
    pictures: readPatchPictures(folder, {
      ...published.pictures,
      ...{ patchPixels: vision.patchPixels, mergeSide: vision.mergeSide, windowPixels: vision.windowPixels },
    }),
  };
  checkLlamaHeads(model, file);
  checkLayerCount(model.layers, NAMES.layers, opened, file);
  checkLayerCount(vision.layers, VISION_LAYERS_PREFIX, opened, `${file}: vision_config`);
  checkStoredTensors(opened, tensors(model), optionalTensors(model));
  return model;
}

function interleaved(file: string): UserError {
  return new UserError(`${file}: mrope_interleaved is true, which no Qwen2.5-VL has.`, {
    fix: "Check that the configuration belongs to this checkpoint.",
  });
}

function readVision(said: unknown, hidden: number, file: string): WindowTowerConfig {
  const place = `${file}: vision_config`;
  const json = parseJson(VisionJson, said ?? {}, place);
  const vision: WindowTowerConfig = {
    hidden: json.hidden_size,
    layers: json.depth,
    heads: json.num_heads,
    ffn: json.intermediate_size,
    patchPixels: json.patch_size,
    mergeSide: json.spatial_merge_size,
    windowPixels: json.window_size,
    fullAttention: json.fullatt_block_indexes.toSorted((one, other) => one - other),
    eps: published.vision.eps,
  };
  checkPatchTower(vision, { tower: json.out_hidden_size, decoder: hidden }, place);
  if (vision.windowPixels >= vision.patchPixels * vision.mergeSide) return vision;
  throw new UserError(`${place}: a window of ${vision.windowPixels} pixels is smaller than a token.`, {
    fix: "Check that the configuration belongs to this checkpoint.",
  });
}
