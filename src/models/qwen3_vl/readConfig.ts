/** Reads the sizes of a dense Qwen3-VL from a checkpoint folder, as transformers 4 and 5 write them. */
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
import { type DeepTowerConfig, interleavedAxes, PRESETS, QWEN3_VL_NAME, type Qwen3VlConfig } from "./spec.ts";
import { NAMES, optionalTensors, tensors, VISION_LAYERS_PREFIX } from "./tensors.ts";

const published = PRESETS["qwen3-vl-8b"];

const positive = z.int().positive();

const ConfigJson = LlamaJson.extend({
  head_dim: orDefault(positive, published.headDim),
  attention_bias: orDefault(z.literal(false), false),
});

const VisionJson = z.object({
  depth: positive,
  hidden_size: positive,
  num_heads: positive,
  intermediate_size: positive,
  out_hidden_size: positive,
  patch_size: orDefault(positive, published.vision.patchPixels),
  spatial_merge_size: orDefault(positive, published.vision.mergeSide),
  temporal_patch_size: orDefault(z.literal(2), 2),
  num_position_embeddings: orDefault(positive, published.vision.positionSide ** 2),
  deepstack_visual_indexes: z.array(z.int().nonnegative()),
  hidden_act: orDefault(z.literal("gelu_pytorch_tanh"), "gelu_pytorch_tanh"),
});

/** Reads and checks the sizes. Throws UserError if the folder's files do not agree with one another. */
export function readQwen3VlConfig(opened: ModelFolder): Qwen3VlConfig {
  const { folder, config } = opened;
  const file = join(folder, "config.json");
  const values = textValues(config);
  const json = parseJson(ConfigJson, values, file);
  const vision = readVision(config.vision_config, json, file);
  const { sections, isInterleaved, ...rope } = mropeOf(values, file, published);
  if (!isInterleaved) {
    throw new UserError(`${file}: mrope_interleaved is not true, as it is in every Qwen3-VL.`, {
      fix: "Check that the configuration belongs to this checkpoint.",
    });
  }
  const generation =
    readJson(z.record(z.string(), z.unknown()), join(folder, "generation_config.json")) ?? {};
  const model: Qwen3VlConfig = {
    family: QWEN3_VL_NAME,
    hidden: json.hidden_size,
    layers: json.num_hidden_layers,
    heads: json.num_attention_heads,
    kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim: json.head_dim,
    ffn: json.intermediate_size,
    vocab: json.vocab_size,
    rmsEps: json.rms_norm_eps,
    hasHeadNorms: true,
    ...rope,
    axisOfPair: interleavedAxes(sections),
    tiedHead: tiedHeadOf(config, json.tie_word_embeddings),
    bosId: json.bos_token_id ?? published.bosId,
    eosIds: eosIdsOf(generation, values, file, published.eosIds),
    vision,
    pictures: readPatchPictures(folder, {
      ...published.pictures,
      ...{ patchPixels: vision.patchPixels, mergeSide: vision.mergeSide },
    }),
  };
  checkLlamaHeads(model, file);
  checkLayerCount(model.layers, NAMES.layers, opened, file);
  checkLayerCount(vision.layers, VISION_LAYERS_PREFIX, opened, `${file}: vision_config`);
  checkStoredTensors(opened, tensors(model), optionalTensors(model));
  return model;
}

function readVision(
  said: unknown,
  { hidden_size: hidden, num_hidden_layers: layers }: z.infer<typeof ConfigJson>,
  file: string,
): DeepTowerConfig {
  const place = `${file}: vision_config`;
  const json = parseJson(VisionJson, said ?? {}, place);
  const vision: DeepTowerConfig = {
    hidden: json.hidden_size,
    layers: json.depth,
    heads: json.num_heads,
    ffn: json.intermediate_size,
    patchPixels: json.patch_size,
    mergeSide: json.spatial_merge_size,
    positionSide: Math.sqrt(json.num_position_embeddings),
    deepstackLayers: json.deepstack_visual_indexes,
    eps: published.vision.eps,
  };
  checkPatchTower(vision, { tower: json.out_hidden_size, decoder: hidden }, place);
  checkDeepstack(vision, layers, place);
  if (Number.isInteger(vision.positionSide)) return vision;
  throw new UserError(`${place}: num_position_embeddings ${json.num_position_embeddings} is not a square.`, {
    fix: "Check that the configuration belongs to this checkpoint.",
  });
}

/** Features come from layers of the tower in ascending order, and each goes to a layer of the decoder. */
function checkDeepstack(
  { deepstackLayers, layers }: DeepTowerConfig,
  decoderLayers: number,
  place: string,
): void {
  const ascend = deepstackLayers.every(
    (layer, index) => layer < layers && !(layer <= deepstackLayers[index - 1]!),
  );
  if (ascend && deepstackLayers.length <= decoderLayers) return;
  const list = `[${deepstackLayers.slice(0, 8).join(", ")}${deepstackLayers.length > 8 ? ", ..." : ""}]`;
  throw new UserError(
    `${place}: deepstack_visual_indexes ${list} do not ascend within ${layers} layers of the tower, or are more than the ${decoderLayers} layers of the decoder.`,
    { fix: "Check that the configuration belongs to this checkpoint." },
  );
}
