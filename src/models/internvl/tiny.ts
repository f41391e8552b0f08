/** Small random checkpoints of InternVL3 in the layout of transformers, to try things out on. */
import { QWEN_ADDED_TOKENS } from "../../data/text/tinyBpe.ts";
import { addedId, writeTinyFolder } from "../tinyFolder.ts";
import { checkDivides, type TinyOptions } from "../xcomposer2/tiny.ts";
import { type InternVlConfig, PRESETS } from "./spec.ts";
import { tensors } from "./tensors.ts";

const PUBLISHED = PRESETS["internvl3-1b"];

/** InternVL3's added tokens: Qwen2.5's, then its own. */
export const INTERNVL_ADDED_TOKENS = [
  ...QWEN_ADDED_TOKENS,
  ...(["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>"] as const),
  ...(["<box>", "</box>"] as const),
] as const;

/** Returns the model of these sizes. Throws UserError on sizes that do not fit together. */
export function tinyInternVlConfig(options: TinyOptions): InternVlConfig {
  const { hidden, layers, heads, kvHeads, ffn, vocab } = options;
  const { visionHidden, visionLayers, visionHeads, visionFfn } = options;
  checkDivides("--hidden", hidden, "2 x --heads", 2 * heads); // RoPE turns pairs
  checkDivides("--heads", heads, "--kv-heads", kvHeads);
  checkDivides("--vision-hidden", visionHidden, "--vision-heads", visionHeads);
  return {
    ...PUBLISHED,
    ...{ hidden, layers, heads, kvHeads, ffn, vocab, headDim: hidden / heads },
    bosId: idOf("<|endoftext|>", vocab),
    eosIds: [idOf("<|im_end|>", vocab)],
    vision: {
      ...PUBLISHED.vision,
      ...{ hidden: visionHidden, layers: visionLayers, heads: visionHeads, ffn: visionFfn },
    },
  };
}

function idOf(token: (typeof INTERNVL_ADDED_TOKENS)[number], vocab: number): number {
  return addedId(token, INTERNVL_ADDED_TOKENS, vocab);
}

/** Writes a checkpoint folder that loadModel reads, with a tokenizer.json where its text is given. */
export function writeTinyInternVl(folder: string, options: TinyOptions, tokenizer?: string): void {
  const config = tinyInternVlConfig(options);
  const { pictures, vision } = config;
  const size = { height: pictures.tilePixels, width: pictures.tilePixels };
  const files = {
    "config.json": configJson(config, options),
    "generation_config.json": { bos_token_id: config.bosId, eos_token_id: config.eosIds[0] },
    "preprocessor_config.json": {
      ...{ image_processor_type: "GotOcr2ImageProcessorFast", processor_class: "InternVLProcessor" },
      ...{ size, min_patches: pictures.minTiles, max_patches: pictures.maxTiles, crop_to_patches: false },
      ...{ image_mean: pictures.mean, image_std: pictures.std },
    },
    "processor_config.json": {
      ...{ image_seq_length: pictures.tileTokens, processor_class: "InternVLProcessor" },
    },
  };
  const parts = { files, tokenizer, tensors: tensors(config), towerLayers: vision.layers };
  writeTinyFolder(folder, { ...parts, layers: config.layers }, options);
}

function configJson(config: InternVlConfig, { dtype }: TinyOptions): Record<string, unknown> {
  const { vision, vocab, pictures } = config;
  return {
    ...{ architectures: ["InternVLForConditionalGeneration"], model_type: "internvl" },
    ...{ downsample_ratio: 0.5, image_seq_length: pictures.tileTokens, projector_hidden_act: "gelu" },
    ...{ image_token_id: idOf("<IMG_CONTEXT>", vocab), tie_word_embeddings: false },
    ...{ vision_feature_layer: -1, vision_feature_select_strategy: "default" },
    ...{ torch_dtype: dtype, transformers_version: "4.52.0" },
    text_config: {
      ...{ architectures: ["Qwen2ForCausalLM"], model_type: "qwen2", torch_dtype: dtype },
      ...{ bos_token_id: config.bosId, eos_token_id: config.eosIds[0] },
      ...{ attention_dropout: 0, hidden_act: "silu", initializer_range: 0.02, use_cache: true },
      ...{ hidden_size: config.hidden, num_hidden_layers: config.layers, intermediate_size: config.ffn },
      ...{ num_attention_heads: config.heads, num_key_value_heads: config.kvHeads, vocab_size: vocab },
      ...{ max_position_embeddings: config.maxPositions, rms_norm_eps: config.rmsEps },
      ...{ rope_theta: config.ropeTheta, rope_scaling: { factor: 2, rope_type: "dynamic", type: "dynamic" } },
      ...{ use_sliding_window: false, tie_word_embeddings: false },
    },
    vision_config: {
      ...{ model_type: "internvl_vision", attention_bias: vision.qkvBias, use_qk_norm: vision.qkNorm },
      ...{ hidden_size: vision.hidden, num_hidden_layers: vision.layers, intermediate_size: vision.ffn },
      ...{ num_attention_heads: vision.heads, num_channels: 3, hidden_act: "gelu" },
      ...{ image_size: [vision.tilePixels, vision.tilePixels], norm_type: vision.norm },
      ...{ patch_size: [vision.patchPixels, vision.patchPixels], layer_norm_eps: vision.eps },
      ...{ use_absolute_position_embeddings: true, use_mask_token: false, use_mean_pooling: true },
    },
  };
}
