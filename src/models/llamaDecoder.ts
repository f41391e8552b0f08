/**
 * The tensors of a decoder in the layout of Llama: queries, keys and values from linears of their own, and a
 * gated MLP. Qwen2.5 (with biases), Qwen3 (with norms of queries and keys: hasHeadNorms) and most others
 * share these names. Loads no engine.
 */
import type { DecoderNames, LinearRole, LinearSpec, ModelConfig, QkvPart, TensorSpec } from "./family.ts";

/** The linears of a layer, in their order everywhere. */
export const LLAMA_LINEARS = [
  "self_attn.q_proj",
  "self_attn.k_proj",
  "self_attn.v_proj",
  "self_attn.o_proj",
  "mlp.gate_proj",
  "mlp.up_proj",
  "mlp.down_proj",
] as const;

export type LlamaLinear = (typeof LLAMA_LINEARS)[number];

/** LoRA targets: every linear of every decoder layer, and none of a vision tower with the same names. */
export const LLAMA_TARGETS =
  "^layers\\.\\d+\\.(self_attn\\.(q_proj|k_proj|v_proj|o_proj)|mlp\\.(gate_proj|up_proj|down_proj))$";

/** The linears with a bias in the decoders of Qwen2 and Qwen2.5. */
export const QWEN2_BIASED = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] as const;

export const LLAMA_ROLES = {
  output: "self_attn.o_proj",
  gate: "mlp.gate_proj",
  up: "mlp.up_proj",
  down: "mlp.down_proj",
} as const satisfies Record<LinearRole, LlamaLinear>;

/** Returns the linears of a decoder; biased: those that have a bias. */
export function llamaLinears<Config extends ModelConfig>(
  biased: (config: Config) => readonly LlamaLinear[] = () => [],
): Record<LlamaLinear, LinearSpec<Config>> {
  const linear = (name: LlamaLinear, shape: LinearSpec["shape"]): LinearSpec<Config> => {
    return { shape, bias: (config) => biased(config).includes(name) };
  };
  // biome-ignore format: columns line up
  return {
    "self_attn.q_proj": linear("self_attn.q_proj", ({ heads, headDim, hidden }) => [heads * headDim, hidden]),
    "self_attn.k_proj": linear("self_attn.k_proj", ({ kvHeads, headDim, hidden }) => [kvHeads * headDim, hidden]),
    "self_attn.v_proj": linear("self_attn.v_proj", ({ kvHeads, headDim, hidden }) => [kvHeads * headDim, hidden]),
    "self_attn.o_proj": linear("self_attn.o_proj", ({ heads, headDim, hidden }) => [hidden, heads * headDim]),
    "mlp.gate_proj":    linear("mlp.gate_proj",    ({ hidden, ffn }) => [ffn, hidden]),
    "mlp.up_proj":      linear("mlp.up_proj",      ({ hidden, ffn }) => [ffn, hidden]),
    "mlp.down_proj":    linear("mlp.down_proj",    ({ hidden, ffn }) => [hidden, ffn]),
  };
}

/** Returns a kv head's rows of the three linears: its query heads, its key, its value. */
export function llamaQkv({ heads, kvHeads, headDim: D }: ModelConfig, kvHead: number): QkvPart[] {
  const Q = heads / kvHeads;
  const own = { start: kvHead * D, end: (kvHead + 1) * D };
  return [
    { linear: "self_attn.q_proj", rows: { start: kvHead * Q * D, end: (kvHead + 1) * Q * D }, as: "q" },
    { linear: "self_attn.k_proj", rows: own, as: "k" },
    { linear: "self_attn.v_proj", rows: own, as: "v" },
  ];
}

/** Returns the official names of a decoder; prefix: what stands before all of them but the head's. */
export function llamaNames(prefix: string, head: string): DecoderNames & { layers: string } {
  const layers = `${prefix}layers.`;
  return {
    embeddings: `${prefix}embed_tokens.weight`,
    norm: `${prefix}norm.weight`,
    head,
    attentionNorm: "input_layernorm.weight",
    ffnNorm: "post_attention_layernorm.weight",
    headNorms: { query: "self_attn.q_norm.weight", key: "self_attn.k_norm.weight" },
    layerPrefix: (layer) => `${layers}${layer}.`,
    layers,
  };
}

/** Returns the decoder's tensors by their official names; a tied head has none of its own. */
export function llamaTensors<Config extends ModelConfig>(
  config: Config,
  names: DecoderNames,
  linears: Record<string, LinearSpec<Config>>,
): Map<string, TensorSpec> {
  const { hidden, headDim, vocab, layers, tiedHead = false, hasHeadNorms = false } = config;
  const headNorms = hasHeadNorms ? Object.values(names.headNorms ?? {}) : [];
  const all = new Map<string, TensorSpec>([
    [names.embeddings, { shape: [vocab, hidden], part: "embeddings", precision: "headBase" }],
    [names.norm, { shape: [hidden], part: "norm" }],
  ]);
  if (!tiedHead) all.set(names.head, { shape: [vocab, hidden], part: "head", precision: "headBase" });
  for (let layer = 0; layer < layers; layer++) {
    const own = { part: "layer", layer } as const;
    const prefix = names.layerPrefix(layer);
    for (const norm of [names.attentionNorm, names.ffnNorm])
      all.set(`${prefix}${norm}`, { shape: [hidden], ...own });
    for (const norm of headNorms) all.set(`${prefix}${norm}`, { shape: [headDim], ...own });
    for (const [name, { shape, bias }] of Object.entries(linears)) {
      const [rows, columns] = shape(config);
      all.set(`${prefix}${name}.weight`, { shape: [rows, columns], ...own, linear: name, precision: "base" });
      if (bias(config)) all.set(`${prefix}${name}.bias`, { shape: [rows], ...own });
    }
  }
  return all;
}
