/** Frozen affine maps and norms, as vision towers have them. All work without a graph. */
import type { Tensor } from "../torch/tensor.ts";
import { scope } from "../torch/tensor.ts";
import {
  addFrozenProduct_,
  type FrozenMatrix,
  frozenAffine,
  frozenProduct,
  frozenRows,
  frozenShape,
} from "./frozen/frozen.ts";
import { type RmsNorm, rmsNorm } from "./norm.ts";
import { type Rows, rowsOf } from "./rows.ts";

/** weight: (out, in); bias: (out), unless the linear has none. */
export interface AffineLinear {
  weight: FrozenMatrix;
  bias: Tensor | undefined;
}

/** weight, bias: (width). */
export interface LayerNorm {
  weight: Tensor;
  bias: Tensor;
  eps: number;
}

/** x W^T + b. x: (..., in), contiguous -> (..., out). */
export function affine(x: Tensor, { weight, bias }: AffineLinear): Tensor {
  if (bias) return frozenAffine(x, weight, bias);
  return scope(() => {
    const y = frozenProduct(x.view([-1, x.shape.at(-1)!]), weight);
    return y.view([...x.shape.slice(0, -1), frozenShape(weight)[0]!]);
  });
}

/** into += x W^T + b. x: (..., in), into: (..., out), both contiguous. */
export function addAffine_(into: Tensor, x: Tensor, { weight, bias }: AffineLinear): void {
  const rows = into.view([-1, into.shape.at(-1)!]);
  if (bias) rows.add_(bias);
  addFrozenProduct_(rows, x.view([-1, x.shape.at(-1)!]), weight);
}

/** Returns the part of a linear that makes some of its outputs; shares memory. */
export function affineRows({ weight, bias }: AffineLinear, rows: Rows): AffineLinear {
  return { weight: frozenRows(weight, rows), bias: bias && rowsOf(bias, rows) };
}

/** Returns the norm over the last dim, of whichever kind. x: (..., width), contiguous. */
export function normed(x: Tensor, norm: LayerNorm | RmsNorm): Tensor {
  const width = x.shape.at(-1)!;
  if ("bias" in norm) return x.nativeLayerNorm([width], norm.weight, norm.bias, norm.eps)[0];
  return scope(() => rmsNorm(x.view([-1, width]), norm).view(x.shape));
}
