/**
 * Products of few rows with a matrix in NF4 or int8, on a card. One kernel reads the codes and multiplies,
 * without the scratch that larger products dequantise into. Few rows occur when answers are generated, one
 * row at a time, and in the last tile of rows.
 */
import { isFused, isOnCard } from "../../torch/kernels/fusedKernel.ts";
import { fused } from "../../torch/kernels/kernels.ts";
import type { Tensor } from "../../torch/tensor.ts";
import { CHANNEL_FORMS, type QuantizedMatrix } from "./quantized.ts";

/**
 * Largest number of rows for the fused product, by memory traffic. The fused product reads the codes once for
 * every 8 rows (0.5 or 1 byte a number). A scratch reads the codes once, then writes and reads 2 bytes a
 * number. The fused arithmetic uses no tensor cores and becomes the limit at about 16 rows. An estimate until
 * bench/gpu/product.ts times it on a card.
 */
export const FUSED_TOKENS = { nf4: 16, int8: 16 } as const;

/** Returns whether x, (T, in), has few rows, and our own kernel runs on its device. */
export function multipliesFused({ precision }: QuantizedMatrix, x: Tensor): boolean {
  if (precision === "fp8") return false;
  if (!isFused(x) || !isOnCard(x.device)) return false;
  return x.shape[0]! <= FUSED_TOKENS[precision] && x.strides[1] === 1;
}

/** Computes into = beta into + x W^T. x: (T, in), W: (out, in), into: (T, out), with any row stride. */
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
