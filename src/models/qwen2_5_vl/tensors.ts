/**
 * The tensors of Qwen2.5-VL by the names that published checkpoints have. transformers from 4.52 on has other
 * names in memory, which some checkpoints are saved with: officialName knows them.
 */
import type { TensorSpec } from "../family.ts";
import { llamaLinears, llamaNames, llamaTensors, QWEN2_BIASED } from "../llamaDecoder.ts";
import type { Qwen2_5VlConfig } from "./spec.ts";

export const LINEARS = llamaLinears<Qwen2_5VlConfig>(() => QWEN2_BIASED);

export const NAMES = llamaNames("model.", "lm_head.weight");

export const VISION_PREFIX = "visual.";
export const VISION_LAYERS_PREFIX = `${VISION_PREFIX}blocks.`;

/** Returns the published name of a tensor that is stored under a name of transformers 4.52 or newer. */
export function officialName(stored: string): string {
  return stored.replace(/^model\.(?:language_model\.|(?=visual\.))/, (prefix) =>
    prefix === "model." ? "" : "model.",
  );
}

/** Names of modules that bitsandbytes skips where lorafit leaves them in full. */
export const MODULES_IN_FULL = { visionBase: ["visual"], headBase: ["lm_head"], branches: [] } as const;

/** Tensors that a checkpoint may have beside those it needs: a tied head is sometimes stored as well. */
export function optionalTensors({ tiedHead = false }: Qwen2_5VlConfig): string[] {
  return tiedHead ? [NAMES.head] : [];
}

/** Returns every tensor of a checkpoint by its official name. */
export function tensors(config: Qwen2_5VlConfig): Map<string, TensorSpec> {
  return new Map([...llamaTensors(config, NAMES, LINEARS), ...visionTensors(config)]);
}

function visionTensors({ vision, hidden }: Qwen2_5VlConfig): Map<string, TensorSpec> {
  const { hidden: width, ffn, patchPixels, mergeSide } = vision;
  const merged = mergeSide ** 2 * width;
  const all = new Map<string, TensorSpec>();
  const add = (name: string, shape: number[], own: Partial<TensorSpec> = {}): void => {
    all.set(name, { shape, part: "vision", ...own });
  };
  const addLinear = (name: string, shape: [number, number], own: Partial<TensorSpec> = {}): void => {
    add(`${name}.weight`, shape, { ...own, linear: name, precision: "visionBase" });
    add(`${name}.bias`, [shape[0]], own);
  };
  add(`${VISION_PREFIX}patch_embed.proj.weight`, [width, 3, 2, patchPixels, patchPixels]);
  add(`${VISION_PREFIX}merger.ln_q.weight`, [width]);
  addLinear(`${VISION_PREFIX}merger.mlp.0`, [merged, merged]);
  addLinear(`${VISION_PREFIX}merger.mlp.2`, [hidden, merged]);
  for (let layer = 0; layer < vision.layers; layer++) {
    const prefix = `${VISION_LAYERS_PREFIX}${layer}.`;
    const own = { layer };
    for (const norm of ["norm1", "norm2"]) add(`${prefix}${norm}.weight`, [width], own);
    addLinear(`${prefix}attn.qkv`, [3 * width, width], own);
    addLinear(`${prefix}attn.proj`, [width, width], own);
    addLinear(`${prefix}mlp.gate_proj`, [ffn, width], own);
    addLinear(`${prefix}mlp.up_proj`, [ffn, width], own);
    addLinear(`${prefix}mlp.down_proj`, [width, ffn], own);
  }
  return all;
}
