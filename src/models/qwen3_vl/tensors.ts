/** The tensors of Qwen3-VL by their names, which are the same in checkpoints and in memory. */
import type { TensorSpec } from "../family.ts";
import { llamaLinears, llamaNames, llamaTensors } from "../llamaDecoder.ts";
import type { Qwen3VlConfig } from "./spec.ts";

export const LINEARS = llamaLinears<Qwen3VlConfig>();

export const NAMES = llamaNames("model.language_model.", "lm_head.weight");

export const VISION_PREFIX = "model.visual.";
export const VISION_LAYERS_PREFIX = `${VISION_PREFIX}blocks.`;
export const DEEPSTACK_PREFIX = `${VISION_PREFIX}deepstack_merger_list.`;

/** Names of modules that bitsandbytes skips where lorafit leaves them in full. */
export const MODULES_IN_FULL = { visionBase: ["visual"], headBase: ["lm_head"], branches: [] } as const;

/** Tensors that a checkpoint may have beside those it needs: a tied head is sometimes stored as well. */
export function optionalTensors({ tiedHead = false }: Qwen3VlConfig): string[] {
  return tiedHead ? [NAMES.head] : [];
}

/** Returns every tensor of a checkpoint by its name. */
export function tensors(config: Qwen3VlConfig): Map<string, TensorSpec> {
  return new Map([...llamaTensors(config, NAMES, LINEARS), ...visionTensors(config)]);
}

function visionTensors({ vision, hidden }: Qwen3VlConfig): Map<string, TensorSpec> {
  const { hidden: width, ffn, patchPixels, mergeSide } = vision;
  const merged = mergeSide ** 2 * width;
  const all = new Map<string, TensorSpec>();
  const add = (name: string, shape: number[], own: Partial<TensorSpec> = {}): void => {
    all.set(name, { shape, part: "vision", ...own });
  };
  const addNorm = (name: string, size: number, own: Partial<TensorSpec> = {}): void => {
    for (const part of ["weight", "bias"]) add(`${name}.${part}`, [size], own);
  };
  const addLinear = (name: string, shape: [number, number], own: Partial<TensorSpec> = {}): void => {
    add(`${name}.weight`, shape, { ...own, linear: name, precision: "visionBase" });
    add(`${name}.bias`, [shape[0]], own);
  };
  const addMerger = (prefix: string, normed: number): void => {
    addNorm(`${prefix}norm`, normed);
    addLinear(`${prefix}linear_fc1`, [merged, merged]);
    addLinear(`${prefix}linear_fc2`, [hidden, merged]);
  };
  add(`${VISION_PREFIX}patch_embed.proj.weight`, [width, 3, 2, patchPixels, patchPixels]);
  add(`${VISION_PREFIX}patch_embed.proj.bias`, [width]);
  add(`${VISION_PREFIX}pos_embed.weight`, [vision.positionSide ** 2, width]);
  addMerger(`${VISION_PREFIX}merger.`, width);
  for (const index of vision.deepstackLayers.keys()) addMerger(`${DEEPSTACK_PREFIX}${index}.`, merged);
  for (let layer = 0; layer < vision.layers; layer++) {
    const prefix = `${VISION_LAYERS_PREFIX}${layer}.`;
    const own = { layer };
    for (const norm of ["norm1", "norm2"]) addNorm(`${prefix}${norm}`, width, own);
    addLinear(`${prefix}attn.qkv`, [3 * width, width], own);
    addLinear(`${prefix}attn.proj`, [width, width], own);
    addLinear(`${prefix}mlp.linear_fc1`, [ffn, width], own);
    addLinear(`${prefix}mlp.linear_fc2`, [width, ffn], own);
  }
  return all;
}
