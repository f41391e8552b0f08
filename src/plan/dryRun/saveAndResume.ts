/**
 * Plans resuming from a checkpoint and saving one: the run's own reading and writing on meta tensors, without
 * a file.
 */
import { piecesOf } from "../../checkpoint/files/safetensors.ts";
import { adapterFromLora, type Lora } from "../../models/lora.ts";
import type { AdamW } from "../../step/optimizer/optimizer.ts";
import {
  gradientTensors,
  momentTensors,
  restoreGradients,
  restoreMoments,
  type TensorFile,
} from "../../step/optimizer/savedState.ts";
import { empty } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";

/** Restores moments, and the gradients of an interrupted step. */
export function resumeOnMeta(optimizer: AdamW): void {
  restoreMoments(optimizer, mappedOnMeta(momentTensors(optimizer)));
  restoreGradients(optimizer, mappedOnMeta(gradientTensors(optimizer)));
}

/**
 * Writes factors, moments and gradients, piece by piece. On the way from a card to the file, a piece is
 * copied to temporary memory of the process, like decoded pictures. This memory belongs to neither pool, so a
 * plan with nothing on the host shows zero there.
 */
export function saveOnMeta(optimizer: AdamW, lora: Lora): void {
  const factors = [...adapterFromLora(lora, "").modules.values()].flatMap(({ a, b }) => [a, b]);
  const state = [...momentTensors(optimizer), ...gradientTensors(optimizer)].map(([, tensor]) => tensor);
  for (const tensor of [...factors, ...state]) scope(() => void [...piecesOf(tensor)]);
}

/** Returns tensors that stand for a mapped file. Their elements lie in the file, and count for no pool. */
function mappedOnMeta(tensors: readonly [name: string, like: Tensor][]): TensorFile {
  const byName = new Map(tensors);
  return {
    has: (name) => byName.has(name),
    tensor(name) {
      const { shape, dtype, strides } = byName.get(name)!;
      return empty([1], { dtype, device: "meta" }).asStrided(shape, strides);
    },
  };
}
