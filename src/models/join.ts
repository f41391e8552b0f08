/** A decoder layer's frozen weights joined with its LoRA branches. */
import type { Tensor } from "../torch/tensor.ts";
import type { Layer } from "./decoder.ts";
import { type Lora, loraBranch } from "./lora.ts";
import { onDevice } from "./places.ts";
import type { LayerWeights, Model } from "./weights.ts";
import { LINEAR_NAMES } from "./xcomposer2/spec.ts";

/**
 * The layer ready for use; LoRA factors cast to the compute dtype belong to the open scope, and so do weights that it fetches from the
 * host where they are not given.
 */
export function joinLayer(
  { dtype, config, layers, places, device }: Model,
  lora: Lora | undefined,
  index: number,
  { dropoutSeed, weights }: { dropoutSeed?: bigint | undefined; weights?: LayerWeights } = {},
): Layer {
  const { attentionNorm, ffnNorm, linears } = weights ?? onDevice(layers[index]!, places.layers, device);
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
