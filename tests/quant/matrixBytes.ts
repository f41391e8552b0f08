import type { FrozenMatrix } from "../../src/nn/frozen/frozen.ts";
import { Tensor } from "../../src/torch/tensor.ts";

/** What the tensors of a matrix occupy, all of it, whatever its window. */
export function matrixBytes(matrix: FrozenMatrix): number {
  const tensors = Object.values(matrix).filter((value) => value instanceof Tensor);
  return tensors.reduce((sum, { bytes }) => sum + bytes, 0);
}
