/** Small random checkpoints of Qwen2.5-VL in the published layout, to try things out on. */
import { QWEN_ADDED_TOKENS } from "../../data/text/tinyBpe.ts";
import { addedId, writeTinyFolder } from "../tinyFolder.ts";
import { checkDivides, type TinyOptions } from "../xcomposer2/tiny.ts";
import { axesOf, PRESETS, type Qwen2_5VlConfig } from "./spec.ts";
import { tensors } from "./tensors.ts";

const PUBLISHED = PRESETS["qwen2.5-vl-7b"];

/** Returns the model of these sizes. Throws UserError on sizes that do not fit together. */
export function tinyQwenConfig(options: TinyOptions): Qwen2_5VlConfig {
  const { hidden, layers, heads, kvHeads, ffn, vocab } = options;
  const { visionHidden, visionLayers, visionHeads, visionFfn } = options;
  checkDivides("--hidden", hidden, "2 x --heads", 2 * heads); // RoPE turns pairs
  checkDivides("--heads", heads, "--kv-heads", kvHeads);
  checkDivides("--vision-hidden", visionHidden, "4 x --vision-heads", 4 * visionHeads); // by row and column
  return {
    ...PUBLISHED,
    ...{ hidden, layers, heads, kvHeads, ffn, vocab, headDim: hidden / heads },
    axisOfPair: axesOf(sectionsOf(hidden / heads)),
    bosId: idOf("<|endoftext|>", vocab),
    eosIds: [idOf("<|im_end|>", vocab), idOf("<|endoftext|>", vocab)],
    vision: {
      ...PUBLISHED.vision,
      ...{ hidden: visionHidden, layers: visionLayers, heads: visionHeads, ffn: visionFfn },
      fullAttention: [visionLayers - 1],
    },
  };
}

/** Shares out a head's pairs over the axes as published heads do: 16, 24 and 24 of 64. */
function sectionsOf(headDim: number): [number, number, number] {
  const pairs = headDim / 2;
  const spatial = Math.floor((3 * pairs) / 8);
  return [pairs - 2 * spatial, spatial, spatial];
}

function idOf(token: (typeof QWEN_ADDED_TOKENS)[number], vocab: number): number {
  return addedId(token, QWEN_ADDED_TOKENS, vocab);
}

/** Writes a checkpoint folder that loadModel reads, with a tokenizer.json where its text is given. */
export function writeTinyQwen(folder: string, options: TinyOptions, tokenizer?: string): void {
  const config = tinyQwenConfig(options);
  const { pictures, vision } = config;
  const files = {
    "config.json": configJson(config, options),
    "generation_config.json": { bos_token_id: config.bosId, eos_token_id: config.eosIds },
    "preprocessor_config.json": {
      image_processor_type: "Qwen2VLImageProcessor",
      ...{ patch_size: pictures.patchPixels, temporal_patch_size: 2, merge_size: pictures.mergeSide },
      ...{ min_pixels: pictures.minPixels, max_pixels: pictures.maxPixels },
      ...{ image_mean: pictures.mean, image_std: pictures.std },
    },
  };
  const parts = { files, tokenizer, tensors: tensors(config), towerLayers: vision.layers };
  writeTinyFolder(folder, { ...parts, layers: config.layers }, options);
}

function configJson(config: Qwen2_5VlConfig, { dtype }: TinyOptions): Record<string, unknown> {
  const { vision, vocab } = config;
  return {
    ...{ architectures: ["Qwen2_5_VLForConditionalGeneration"], model_type: "qwen2_5_vl" },
    ...{ bos_token_id: config.bosId, eos_token_id: config.eosIds[0] },
    vision_start_token_id: idOf("<|vision_start|>", vocab),
    vision_end_token_id: idOf("<|vision_end|>", vocab),
    vision_token_id: idOf("<|vision_pad|>", vocab),
    image_token_id: idOf("<|image_pad|>", vocab),
    video_token_id: idOf("<|video_pad|>", vocab),
    ...{ attention_dropout: 0, hidden_act: "silu", initializer_range: 0.02, use_cache: true },
    ...{ hidden_size: config.hidden, num_hidden_layers: config.layers, intermediate_size: config.ffn },
    ...{ num_attention_heads: config.heads, num_key_value_heads: config.kvHeads, vocab_size: vocab },
    ...{ max_position_embeddings: config.maxPositions, rms_norm_eps: config.rmsEps },
    ...{ rope_theta: config.ropeTheta, use_sliding_window: false, tie_word_embeddings: false },
    rope_scaling: { type: "mrope", mrope_section: sectionsOf(config.headDim) },
    ...{ torch_dtype: dtype, transformers_version: "4.49.0" },
    vision_config: {
      ...{ depth: vision.layers, hidden_size: vision.hidden, num_heads: vision.heads },
      ...{ intermediate_size: vision.ffn, out_hidden_size: config.hidden, hidden_act: "silu", in_chans: 3 },
      ...{ patch_size: vision.patchPixels, spatial_patch_size: vision.patchPixels },
      ...{ spatial_merge_size: vision.mergeSide, temporal_patch_size: 2, tokens_per_second: 2 },
      ...{ window_size: vision.windowPixels, fullatt_block_indexes: vision.fullAttention },
    },
  };
}
