/**
 * Products of few rows with a matrix in NF4 or int8, on a card: a kernel reads the codes and multiplies at once, without the scratch that
 * larger products read the matrix into. Few rows are what answers are generated with, one at a time, and what is left over by tiles.
 */
import { isFused, isOnCard } from "../../torch/kernels/fusedKernel.ts";
import { fused } from "../../torch/kernels/kernels.ts";
import type { Tensor } from "../../torch/tensor.ts";
import { CHANNEL_FORMS, type QuantizedMatrix } from "./quantized.ts";

/**
 * Rows up to which the fused product is taken. By traffic: codes once for every 8 rows (0.5 or 1 byte a number), where a scratch costs
 * its codes and 2 bytes written and read again each; arithmetic, which has no tensor cores, catches up at about 16 rows. An estimate
 * until it is timed on a card (bench/gpu/product.ts).
 */
export const FUSED_TOKENS = { nf4: 16, int8: 16 } as const;

/** Whether a product of x, (T, in), with a matrix is of few rows, and a kernel of ours makes it where x lies. */
export function multipliesFused({ precision }: QuantizedMatrix, x: Tensor): boolean {
  if (precision === "fp8") return false;
  if (!isFused(x) || !isOnCard(x.device)) return false;
  return x.shape[0]! <= FUSED_TOKENS[precision] && x.strides[1] === 1;
}

/** into = beta into + x W^T. x: (T, in), W: (out, in), into: (T, out), its rows apart by any stride. */
export function fusedProduct_(into: Tensor, x: Tensor, matrix: QuantizedMatrix, beta: 0 | 1): void {
  if (matrix.precision === "nf4") {
    const { codes, absmax, nestedMap, nestedAbsmax, offset, width, rows, columns } = matrix;
    const window = { offset, width, row: rows.start, column: columns.start };
    fused.productNf4([into, x, codes, absmax, nestedMap, nestedAbsmax], { ...window, add: beta });
  } else {
    const { codes, scales } = matrix;
    fused.productInt8([into, x, codes, scales], { unit: CHANNEL_FORMS.int8.unit, add: beta });
  }
}
