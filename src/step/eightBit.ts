/**
 * Moments in 8 bits: blocks of 256 elements, each with its largest magnitude in float32, and a code an element that names one of 256
 * numbers in [-1, 1], dense near zero (dynamic exponent: arXiv:2110.02861; the numbers are those of bitsandbytes).
 */
import { fromArray } from "../torch/create.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";

export const BLOCK_ELEMENTS = 256;

/** codes: uint8 (blocks, 256), the last block filled up with zeros; absmax: float32 (blocks, 1). */
export interface Codes {
  codes: Tensor;
  absmax: Tensor;
}

/** values: float32 (256), ascending; bounds: float32 (255), above which a number takes the next code. */
export interface CodeTable {
  values: Tensor;
  bounds: Tensor;
  zeroCode: number;
}

/** Powers of ten that the numbers span. */
const EXPONENTS = 7;
/** The least normal float32: the magnitude of a block of zeros. */
const LEAST = 2 ** -126;

/** The 256 numbers in ascending order: to each power of ten as many evenly spaced ones as the bits that it leaves can tell apart. */
export function dynamicMap(sign: "signed" | "unsigned"): Float32Array {
  const values = [0, 1];
  for (let exponent = 0; exponent < EXPONENTS; exponent++) {
    const count = 2 ** (exponent + (sign === "signed" ? 0 : 1));
    for (let index = 0; index < count; index++) {
      const middle = 0.1 + (0.9 * (index + 0.5)) / count;
      const value = middle * 10 ** (exponent + 1 - EXPONENTS);
      values.push(value);
      if (sign === "signed") values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

/**
 * The table of means (signed) or of squares (unsigned) on a device. A square above zero never takes the code of zero: the step divides
 * by its root, and a mean that is still there would be divided by epsilon.
 */
export function codeTable(sign: "signed" | "unsigned", device: Device): CodeTable {
  const values = dynamicMap(sign);
  const bounds = Float32Array.from({ length: values.length - 1 }, (_, code) =>
    sign === "unsigned" && code === 0 ? 0 : (values[code]! + values[code + 1]!) / 2,
  );
  return {
    values: fromArray(values, [values.length], { device }),
    bounds: fromArray(bounds, [bounds.length], { device }),
    zeroCode: values.indexOf(0),
  };
}

/** Codes of zeros, so many that the elements fit; `make` gives memory with anything in it. */
export function zeroCodes(
  elements: number,
  { zeroCode }: CodeTable,
  make: (shape: number[], dtype: DType) => Tensor,
): Codes {
  const blocks = Math.ceil(elements / BLOCK_ELEMENTS);
  return {
    codes: make([blocks, BLOCK_ELEMENTS], "uint8").fill_(zeroCode),
    absmax: make([blocks, 1], "float32").fill_(LEAST),
  };
}

/** The numbers of codes: float32 (blocks, 256). */
export function dequantized({ codes, absmax }: Codes, { values }: CodeTable): Tensor {
  return scope(() => {
    const found = scope(() => values.indexSelect(0, codes.view([-1]).to({ dtype: "int32" })));
    return found.view(codes.shape).mul_(absmax);
  });
}

/** Writes numbers, float32 (blocks, 256), as codes; the numbers are used up. */
export function quantize_({ codes, absmax }: Codes, numbers: Tensor, { bounds }: CodeTable): void {
  scope(() => {
    const largest = numbers.linalgVectorNorm({ ord: Number.POSITIVE_INFINITY, dim: [1], keepdim: true });
    absmax.copy_(largest.clampMin_(LEAST));
    codes.copy_(bounds.searchsorted(numbers.div_(absmax), { outInt32: true }));
  });
}
