/**
 * The tensors of InternLM-XComposer2 by their official names, and the linears of its decoder. Source: the
 * official modelling code.
 */
import type { LinearRole, LinearSpec, QkvPart, TensorSpec } from "../family.ts";
import { XCOMPOSER_LINEARS, type XComposerConfig, type XComposerLinear } from "./spec.ts";

/** Names of PLoRA's factors, after the linear's own. */
export const PLORA_NAMES = { a: "Plora_A.weight", b: "Plora_B.weight" } as const;

/** The linears of a decoder layer; each has PLoRA. */
// biome-ignore format: columns line up
export const LINEARS: Record<XComposerLinear, LinearSpec<XComposerConfig>> = {
  "attention.wqkv":  linear("attention.wqkv",  ({ heads, kvHeads, headDim, hidden }) => [(heads + 2 * kvHeads) * headDim, hidden]),
  "attention.wo":    linear("attention.wo",    ({ heads, headDim, hidden }) => [hidden, heads * headDim]),
  "feed_forward.w1": linear("feed_forward.w1", ({ hidden, ffn }) => [ffn, hidden]),
  "feed_forward.w2": linear("feed_forward.w2", ({ hidden, ffn }) => [hidden, ffn]),
  "feed_forward.w3": linear("feed_forward.w3", ({ hidden, ffn }) => [ffn, hidden]),
};

function linear(
  name: XComposerLinear,
  shape: LinearSpec<XComposerConfig>["shape"],
): LinearSpec<XComposerConfig> {
  const bias = ({ bias = false }: XComposerConfig): boolean => bias && name.startsWith("attention.");
  return { shape, bias, branch: { names: PLORA_NAMES, of: ({ plora }) => plora[name] } };
}

export const ROLES = {
  output: "attention.wo",
  gate: "feed_forward.w1",
  up: "feed_forward.w3",
  down: "feed_forward.w2",
} as const satisfies Record<LinearRole, XComposerLinear>;

/** Returns a kv head's rows of wqkv, which is packed by kv head: its Q query heads, its key, its value. */
export function qkv({ heads, kvHeads, headDim: D }: XComposerConfig, kvHead: number): QkvPart[] {
  const Q = heads / kvHeads;
  const start = kvHead * (Q + 2) * D;
  const linear = "attention.wqkv";
  return [
    { linear, rows: { start, end: start + Q * D }, as: "q" },
    { linear, rows: { start: start + Q * D, end: start + (Q + 1) * D }, as: "k" },
    { linear, rows: { start: start + (Q + 1) * D, end: start + (Q + 2) * D }, as: "v" },
  ];
}

/** The beginning of the names of all layers' tensors, before the layer's number. */
export const LAYERS_PREFIX = "model.layers.";

export const NAMES = {
  embeddings: "model.tok_embeddings.weight",
  norm: "model.norm.weight",
  head: "output.weight",
  attentionNorm: "attention_norm.weight",
  ffnNorm: "ffn_norm.weight",
  layerPrefix: (layer: number) => `${LAYERS_PREFIX}${layer}.`,
} as const;

/** Returns what the names of a linear's tensors begin with. */
export function linearPrefix(layer: number, name: XComposerLinear): string {
  return `${NAMES.layerPrefix(layer)}${name}.`;
}

export const VISION_PREFIX = "vit.vision_tower.vision_model.";
export const POSITIONS_NAME = `${VISION_PREFIX}embeddings.position_embedding.weight`;
export const VISION_LAYER_PREFIX = `${VISION_PREFIX}encoder.layers.`;

/** The linears that take merged patches to the decoder's width. */
export const PROJECTOR_NAMES = ["vision_proj.0", "vision_proj.2"] as const;

/** Separators of image tokens: between the global view and the tiles, and at the end of a row. */
export const SEPARATOR_NAMES = { glb: "plora_glb_GN", sub: "plora_sub_GN" } as const;

/** Returns what the names of a vision layer's tensors begin with. */
export function visionLayerPrefix(layer: number): string {
  return `${VISION_LAYER_PREFIX}${layer}.`;
}

/** Tensors that some exports carry. Features are read before them, so they are neither needed nor refused. */
export const OPTIONAL_TENSORS = [
  `${VISION_PREFIX}post_layernorm.weight`,
  `${VISION_PREFIX}post_layernorm.bias`,
  `${VISION_PREFIX}embeddings.position_ids`,
];

/** Names of modules that bitsandbytes skips where lorafit leaves them in full. */
export const MODULES_IN_FULL = {
  visionBase: ["vit", "vision_proj"],
  headBase: ["output"],
  branches: ["Plora_A", "Plora_B"],
} as const;

/** Returns every tensor of a checkpoint by its official name. */
export function tensors(config: XComposerConfig): Map<string, TensorSpec> {
  const { hidden, vocab, layers } = config;
  const all = new Map<string, TensorSpec>([
    [NAMES.embeddings, { shape: [vocab, hidden], part: "embeddings", precision: "headBase" }],
    [NAMES.norm, { shape: [hidden], part: "norm" }],
    [NAMES.head, { shape: [vocab, hidden], part: "head", precision: "headBase" }],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    const own = { part: "layer", layer } as const;
    all.set(`${NAMES.layerPrefix(layer)}${NAMES.attentionNorm}`, { shape: [hidden], ...own });
    all.set(`${NAMES.layerPrefix(layer)}${NAMES.ffnNorm}`, { shape: [hidden], ...own });
    for (const name of XCOMPOSER_LINEARS) {
      const [rows, columns] = LINEARS[name].shape(config);
      const { rank } = config.plora[name];
      const prefix = linearPrefix(layer, name);
      if (LINEARS[name].bias(config)) all.set(`${prefix}bias`, { shape: [rows], ...own });
      all.set(`${prefix}weight`, { shape: [rows, columns], ...own, linear: name, precision: "base" });
      all.set(`${prefix}${PLORA_NAMES.a}`, { shape: [rank, columns], ...own });
      all.set(`${prefix}${PLORA_NAMES.b}`, { shape: [rows, rank], ...own });
    }
  }
  return new Map([...all, ...visionTensors(config)]);
}

function visionTensors({ vision, hidden }: XComposerConfig): Map<string, TensorSpec> {
  const { hidden: width, ffn, patchPixels, imagePixels, isWhole } = vision;
  const patches = (imagePixels / patchPixels) ** 2;
  const merged = isWhole ? width : 4 * width; // of tiles, a 2x2 square of patches becomes one token
  const shapes: [string, number[]][] = [
    [`${VISION_PREFIX}embeddings.class_embedding`, [width]],
    [`${VISION_PREFIX}embeddings.patch_embedding.weight`, [width, 3, patchPixels, patchPixels]],
    [POSITIONS_NAME, [patches + 1, width]],
    [`${VISION_PREFIX}pre_layrnorm.weight`, [width]],
    [`${VISION_PREFIX}pre_layrnorm.bias`, [width]],
  ];
  const separators: typeof shapes = [
    [SEPARATOR_NAMES.glb, [1, 1, merged]],
    [SEPARATOR_NAMES.sub, [1, 1, 1, merged]],
  ];
  if (!isWhole) shapes.push(...separators);
  const all = new Map<string, TensorSpec>(shapes.map(([name, shape]) => [name, { shape, part: "vision" }]));
  const addLinear = (prefix: string, name: string, shape: number[], layer?: number): void => {
    const own = { part: "vision", ...(layer !== undefined && { layer }) } as const;
    all.set(`${prefix}${name}.weight`, { shape, ...own, linear: name, precision: "visionBase" });
    all.set(`${prefix}${name}.bias`, { shape: shape.slice(0, 1), ...own });
  };
  addLinear("", PROJECTOR_NAMES[0], [hidden, merged]);
  addLinear("", PROJECTOR_NAMES[1], [hidden, hidden]);
  const square = [width, width];
  const linears = {
    "self_attn.q_proj": square,
    "self_attn.k_proj": square,
    "self_attn.v_proj": square,
    "self_attn.out_proj": square,
    "mlp.fc1": [ffn, width],
    "mlp.fc2": [width, ffn],
  };
  for (let layer = 0; layer < vision.layers; layer++) {
    const prefix = visionLayerPrefix(layer);
    for (const norm of ["layer_norm1", "layer_norm2"]) {
      for (const part of ["weight", "bias"])
        all.set(`${prefix}${norm}.${part}`, { shape: [width], part: "vision", layer });
    }
    for (const [name, shape] of Object.entries(linears)) addLinear(prefix, name, shape, layer);
  }
  return all;
}
