/**
 * RMS norm and its gradient: in one pass if our own kernels run on the device, else in tiles of rows to keep
 * float32 temporaries small.
 */
import { isFused } from "../torch/kernels/fusedKernel.ts";
import { fused } from "../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { forEachTileOf, rowsOf } from "./rows.ts";

/** Rows per tile: with 4096 features, 4 MiB of float32. */
const TILE_ROWS = 256;

export interface RmsNorm {
  /** (C) */
  weight: Tensor;
  eps: number;
}

/**
 * Returns the RMS norm over the last dim, computed in float32 and rounded to x's dtype before the weight. x:
 * (T, C) -> (T, C). Source: arXiv:1910.07467.
 */
export function rmsNorm(x: Tensor, { weight, eps }: RmsNorm): Tensor {
  return scope(() => {
    const out = x.emptyLike();
    rmsNormInto(out, x, { weight, eps });
    return out;
  });
}

/** Writes rmsNorm(x) into `out`, (T, C). */
export function rmsNormInto(out: Tensor, x: Tensor, { weight, eps }: RmsNorm): void {
  if (isFused(x)) {
    fused.rmsNorm([out, x, weight], { eps });
    return;
  }
  forEachTileOf(x.shape[0]!, TILE_ROWS, (tile) => {
    scope(() => {
      const { normalized } = normalize(rowsOf(x, tile), eps);
      rowsOf(out, tile).copy_(normalized).mul_(weight);
    });
  });
}

/**
 * Adds to `into` the gradient of rmsNorm at x, for the gradient `gradOut` of its output; all (T, C). With n =
 * x * r, r = rsqrt(mean(x^2) + eps), g = gradOut * weight: r * (g - n * mean(g * n)).
 */
export function addRmsNormGradient_(
  into: Tensor,
  gradOut: Tensor,
  x: Tensor,
  { weight, eps }: RmsNorm,
): void {
  if (isFused(x)) {
    fused.addRmsNormGradient([into, gradOut, x, weight], { eps });
    return;
  }
  forEachTileOf(x.shape[0]!, TILE_ROWS, (tile) => {
    scope(() => {
      const { normalized, inverseRms } = normalize(rowsOf(x, tile), eps);
      const gradient = rowsOf(gradOut, tile).mul(weight).to({ dtype: normalized.dtype }); // (t, C) float32
      const projection = gradient.mul(normalized).meanDim([-1], { keepdim: true }); // (t, 1)
      const tangent = gradient.sub(normalized.mul_(projection)).mul_(inverseRms); // (t, C)
      const sum = rowsOf(into, tile); // cast here: a kernel that casts inside uses memory that no plan counts
      sum.copy_(tangent.add_(sum.to({ dtype: tangent.dtype })));
    });
  });
}

/** Returns x * rsqrt(mean(x^2) + eps) in float32 (float64 if x is float64), and the factor. x: (t, C). */
function normalize(x: Tensor, eps: number): { normalized: Tensor; inverseRms: Tensor } {
  const wide = x.to({ dtype: x.dtype === "float64" ? "float64" : "float32" });
  const inverseRms = wide.square().meanDim([-1], { keepdim: true }).add_(eps).rsqrt_(); // (t, 1)
  return { normalized: wide.mul(inverseRms), inverseRms };
}
