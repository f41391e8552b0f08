/** A decoder layer's frozen weights joined with its LoRA branches. */
import type { Linear } from "../nn/linear.ts";
import type { Tensor } from "../torch/tensor.ts";
import type { Layer } from "./decoder.ts";
import { familyOf } from "./families.ts";
import type { LinearName, ModelConfig } from "./family.ts";
import { type Lora, loraBranch } from "./lora.ts";
import { partOnDevice } from "./parts.ts";
import type { LayerWeights, Model } from "./weights.ts";

/**
 * Returns the layer ready for use. Factors cast to the compute dtype belong to the open scope, and so do
 * weights that have to be fetched because they are not given.
 */
export function joinLayer(
  model: Model,
  lora: Lora | undefined,
  index: number,
  { dropoutSeed, weights }: { dropoutSeed?: bigint | undefined; weights?: LayerWeights } = {},
): Layer {
  const { dtype, config } = model;
  const { attentionNorm, ffnNorm, headNorms, linears } = weights ?? partOnDevice(model, index);
  const norm = (weight: Tensor): Layer["ffnNorm"] => ({ weight, eps: config.rmsEps });
  const joined = Object.entries(linears).map(([name, frozen]) => {
    return [name, { ...frozen, lora: loraBranch(lora, index, name, { dtype, dropoutSeed }) }] as const;
  });
  return {
    attentionNorm: norm(attentionNorm),
    ffnNorm: norm(ffnNorm),
    headNorms: headNorms && { query: norm(headNorms.query), key: norm(headNorms.key) },
    ...byRole(config, new Map(joined)),
  };
}

/** Returns a layer's linears by what they do. */
export function byRole(
  config: ModelConfig,
  linears: ReadonlyMap<LinearName, Linear>,
): Omit<Layer, "attentionNorm" | "ffnNorm" | "headNorms"> {
  const { roles, qkv } = familyOf(config);
  const named = (name: LinearName): Linear => linears.get(name)!;
  return {
    qkv: new Map(qkv(config, 0).map(({ linear }) => [linear, named(linear)])),
    output: named(roles.output),
    gate: named(roles.gate),
    up: named(roles.up),
    down: named(roles.down),
  };
}
