/**
 * A frozen matrix W, (out, in), in one of the precisions of the base, and the four products that the step makes with it. Whoever holds
 * one calls these functions and does not ask which precision it is.
 */
import type { Tensor } from "../torch/tensor.ts";
import { type Rows, rowsOf } from "./rows.ts";

/** weight: (out, in), in the compute dtype. */
export interface DenseMatrix {
  precision: "dense";
  weight: Tensor;
}

export type FrozenMatrix = DenseMatrix;

/** A matrix that is held as it is. */
export function denseMatrix(weight: Tensor): DenseMatrix {
  return { precision: "dense", weight };
}

/** x W^T. x: (T, in) -> (T, out). */
export function frozenProduct(x: Tensor, { weight }: FrozenMatrix): Tensor {
  return x.mm(weight.t());
}

/** into += x W^T. x: (T, in), into: (T, out). */
export function addFrozenProduct_(into: Tensor, x: Tensor, { weight }: FrozenMatrix): void {
  into.addmm_(x, weight.t());
}

/** dy W, the gradient of x for the gradient dy of x W^T. dy: (T, out) -> (T, in). */
export function frozenGradient(dy: Tensor, { weight }: FrozenMatrix): Tensor {
  return dy.mm(weight);
}

/** into += dy W. dy: (T, out), into: (T, in). */
export function addFrozenGradient_(into: Tensor, dy: Tensor, { weight }: FrozenMatrix): void {
  into.addmm_(dy, weight);
}

/** The part that makes some of the outputs; shares memory. */
export function frozenRows({ precision, weight }: FrozenMatrix, rows: Rows): FrozenMatrix {
  return { precision, weight: rowsOf(weight, rows) };
}

/** The part that reads some of the inputs; shares memory. */
export function frozenColumns({ precision, weight }: FrozenMatrix, { start, end }: Rows): FrozenMatrix {
  return { precision, weight: weight.narrow(1, start, end - start) };
}

/** [out, in]. */
export function frozenShape({ weight }: FrozenMatrix): readonly number[] {
  return weight.shape;
}

/** What it occupies. */
export function frozenBytes({ weight }: FrozenMatrix): number {
  return weight.bytes;
}

/** All of it as numbers, (out, in). */
export function frozenValues({ weight }: FrozenMatrix): Tensor {
  return weight;
}
