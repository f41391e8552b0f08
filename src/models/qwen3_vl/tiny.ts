/** Small random checkpoints of Qwen3-VL in the published layout, to try things out on. */
import { QWEN_ADDED_TOKENS } from "../../data/text/tinyBpe.ts";
import { addedId, writeTinyFolder } from "../tinyFolder.ts";
import { checkDivides, type TinyOptions } from "../xcomposer2/tiny.ts";
import { interleavedAxes, PRESETS, type Qwen3VlConfig } from "./spec.ts";
import { tensors } from "./tensors.ts";

const PUBLISHED = PRESETS["qwen3-vl-8b"];

/** Returns the model of these sizes. Throws UserError on sizes that do not fit together. */
export function tinyQwen3Config(options: TinyOptions): Qwen3VlConfig {
  const { hidden, layers, heads, kvHeads, ffn, vocab } = options;
  const { visionHidden, visionLayers, visionHeads, visionFfn } = options;
  checkDivides("--hidden", hidden, "2 x --heads", 2 * heads); // RoPE turns pairs
  checkDivides("--heads", heads, "--kv-heads", kvHeads);
  checkDivides("--vision-hidden", visionHidden, "4 x --vision-heads", 4 * visionHeads); // by row and column
  return {
    ...PUBLISHED,
    ...{ hidden, layers, heads, kvHeads, ffn, vocab, headDim: hidden / heads },
    axisOfPair: interleavedAxes(sectionsOf(hidden / heads)),
    bosId: idOf("<|endoftext|>", vocab),
    eosIds: [idOf("<|im_end|>", vocab), idOf("<|endoftext|>", vocab)],
    vision: {
      ...PUBLISHED.vision,
      ...{ hidden: visionHidden, layers: visionLayers, heads: visionHeads, ffn: visionFfn },
      positionSide: TINY_POSITION_SIDE,
      deepstackLayers: visionLayers > 1 ? [visionLayers - 2] : [],
    },
    pictures: { ...PUBLISHED.pictures, minPixels: TINY_MIN_PIXELS },
  };
}

/** Points along a side of the learned positions. */
const TINY_POSITION_SIDE = 8;

/** Two tokens along a side at least. */
const TINY_MIN_PIXELS = 4096;

/** Shares out a head's pairs over the axes as published heads do: 24, 20 and 20 of 64. */
function sectionsOf(headDim: number): [number, number, number] {
  const pairs = headDim / 2;
  const spatial = Math.floor((5 * pairs) / 16);
  return [pairs - 2 * spatial, spatial, spatial];
}

function idOf(token: (typeof QWEN_ADDED_TOKENS)[number], vocab: number): number {
  return addedId(token, QWEN_ADDED_TOKENS, vocab);
}

/** Writes a checkpoint folder that loadModel reads, with a tokenizer.json where its text is given. */
export function writeTinyQwen3(folder: string, options: TinyOptions, tokenizer?: string): void {
  const config = tinyQwen3Config(options);
  const { pictures, vision } = config;
  const files = {
    "config.json": configJson(config, options),
    "generation_config.json": { bos_token_id: config.bosId, eos_token_id: config.eosIds },
    "preprocessor_config.json": {
      image_processor_type: "Qwen2VLImageProcessorFast",
      ...{ patch_size: pictures.patchPixels, temporal_patch_size: 2, merge_size: pictures.mergeSide },
      size: { shortest_edge: pictures.minPixels, longest_edge: pictures.maxPixels },
      ...{ image_mean: pictures.mean, image_std: pictures.std },
    },
  };
  const parts = { files, tokenizer, tensors: tensors(config), towerLayers: vision.layers };
  writeTinyFolder(folder, { ...parts, layers: config.layers }, options);
}

function configJson(config: Qwen3VlConfig, { dtype }: TinyOptions): Record<string, unknown> {
  const { vision, vocab } = config;
  return {
    ...{ architectures: ["Qwen3VLForConditionalGeneration"], model_type: "qwen3_vl" },
    vision_start_token_id: idOf("<|vision_start|>", vocab),
    vision_end_token_id: idOf("<|vision_end|>", vocab),
    image_token_id: idOf("<|image_pad|>", vocab),
    video_token_id: idOf("<|video_pad|>", vocab),
    ...{ tie_word_embeddings: false, transformers_version: "4.57.0" },
    text_config: {
      ...{ model_type: "qwen3_vl_text", dtype, vocab_size: vocab },
      ...{ bos_token_id: config.bosId, eos_token_id: config.eosIds[0] },
      ...{ attention_bias: false, attention_dropout: 0, hidden_act: "silu", initializer_range: 0.02 },
      ...{ hidden_size: config.hidden, num_hidden_layers: config.layers, intermediate_size: config.ffn },
      ...{ num_attention_heads: config.heads, num_key_value_heads: config.kvHeads, head_dim: config.headDim },
      ...{ max_position_embeddings: config.maxPositions, rms_norm_eps: config.rmsEps },
      ...{ rope_theta: config.ropeTheta, tie_word_embeddings: false, use_cache: true },
      rope_scaling: {
        ...{ mrope_interleaved: true, mrope_section: sectionsOf(config.headDim), rope_type: "default" },
      },
    },
    vision_config: {
      ...{
        model_type: "qwen3_vl",
        depth: vision.layers,
        hidden_size: vision.hidden,
        num_heads: vision.heads,
      },
      ...{ intermediate_size: vision.ffn, out_hidden_size: config.hidden, hidden_act: "gelu_pytorch_tanh" },
      ...{ in_channels: 3, initializer_range: 0.02, patch_size: vision.patchPixels },
      ...{ spatial_merge_size: vision.mergeSide, temporal_patch_size: 2 },
      num_position_embeddings: vision.positionSide ** 2,
      deepstack_visual_indexes: vision.deepstackLayers,
    },
  };
}
