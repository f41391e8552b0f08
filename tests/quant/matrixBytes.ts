import type { FrozenMatrix } from "../../src/nn/frozen/frozen.ts";
import { Tensor } from "../../src/torch/tensor.ts";

/** Returns the bytes of all tensors of a matrix, whatever its window. */
export function matrixBytes(matrix: FrozenMatrix): number {
  const tensors = Object.values(matrix).filter((value) => value instanceof Tensor);
  return tensors.reduce((sum, { bytes }) => sum + bytes, 0);
}
