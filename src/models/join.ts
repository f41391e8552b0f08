/** A decoder layer's frozen weights joined with its LoRA branches. */
import type { Tensor } from "../torch/tensor.ts";
import type { Layer } from "./decoder.ts";
import { type Lora, loraBranch } from "./lora.ts";
import { LINEAR_NAMES } from "./spec.ts";
import type { Model } from "./weights.ts";

/** The layer ready for use; LoRA factors cast to the compute dtype belong to the open scope. */
export function joinLayer(model: Model, lora: Lora | undefined, index: number, dropoutSeed?: bigint): Layer {
  const { dtype, config } = model;
  const { attentionNorm, ffnNorm, linears } = model.layers[index]!;
  const norm = (weight: Tensor): Layer["ffnNorm"] => ({ weight, eps: config.rmsEps });
  const joined = LINEAR_NAMES.map((name) => {
    const { weight, plora } = linears[name];
    return [name, { weight, plora, lora: loraBranch(lora, index, name, { dtype, dropoutSeed }) }] as const;
  });
  return {
    attentionNorm: norm(attentionNorm),
    ffnNorm: norm(ffnNorm),
    linears: Object.fromEntries(joined) as Layer["linears"],
  };
}
