/**
 * Moments in 8 bits: blocks of 256 elements, each with its largest magnitude in float32, and a code for each
 * element that names one of 256 numbers in [-1, 1], dense near zero (dynamic exponent: arXiv:2110.02861; the
 * numbers are those of bitsandbytes).
 */
import { dynamicMap, type Sign } from "../../nn/frozen/dynamicMap.ts";
import { fromArray } from "../../torch/create.ts";
import type { Device, DType } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";

export const BLOCK_ELEMENTS = 256;

/** codes: uint8 (blocks, 256), the last block filled up with zeros; absmax: float32 (blocks, 1). */
export interface Codes {
  codes: Tensor;
  absmax: Tensor;
}

/**
 * Finds a code by the upper 16 bits of a number's float32, its cell. lowest: the code of the cell's smallest
 * number (uint8). bound: the number in the cell above which the next code begins (float32; Infinity if none
 * does). values: float32 (256), ascending.
 */
export interface CodeTable {
  values: Tensor;
  lowest: Tensor;
  bound: Tensor;
  zeroCode: number;
}

/** Cells of float32's upper half, read as a signed number. The first cell is this far below zero. */
const CELLS = 2 ** 16;
const FIRST_CELL = -(2 ** 15);
/** The least normal float32: the magnitude of a block of zeros. */
const LEAST = 2 ** -126;

/**
 * Returns the table of means (signed) or squares (unsigned) on a device. A square above zero never gets the
 * code of zero: the step divides by its root, and a mean that is still there would be divided by epsilon.
 */
export function codeTable(sign: Sign, device: Device): CodeTable {
  const values = dynamicMap(sign);
  const { lowest, bound } = cellsOf(sign);
  return {
    values: fromArray(values, [values.length], { device }),
    lowest: fromArray(lowest, [CELLS], { device }),
    bound: fromArray(bound, [CELLS], { device }),
    zeroCode: values.indexOf(0),
  };
}

interface Cells {
  lowest: Uint8Array;
  bound: Float32Array;
}

const known = new Map<Sign, Cells>();

function cellsOf(sign: Sign): Cells {
  const cells = known.get(sign) ?? makeCells(boundsOf(sign));
  known.set(sign, cells);
  return cells;
}

/** Numbers up to and with bounds[code] take the code, or a lower one. */
function boundsOf(sign: Sign): number[] {
  const values = dynamicMap(sign);
  return Array.from({ length: values.length - 1 }, (_, code) =>
    sign === "unsigned" && code === 0 ? 0 : Math.fround((values[code]! + values[code + 1]!) / 2),
  );
}

function makeCells(bounds: readonly number[]): Cells {
  const cells = {
    lowest: new Uint8Array(CELLS),
    bound: new Float32Array(CELLS).fill(Number.POSITIVE_INFINITY),
  };
  const word = new DataView(new ArrayBuffer(4));
  const numberAt = (bits: number): number => {
    word.setInt32(0, bits);
    return word.getFloat32(0);
  };
  for (let cell = 0; cell < CELLS; cell++) {
    const bits = (cell + FIRST_CELL) << 16;
    const ends = [numberAt(bits), numberAt(bits | 0xffff)] as const;
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    if (!(high >= -1 && low <= 1)) continue; // also what is not a number
    const below = bounds.filter((bound) => bound < low).length;
    cells.lowest[cell] = below;
    if (bounds[below]! < high) cells.bound[cell] = bounds[below]!;
    if (bounds[below + 1]! < high) throw new Error("a cell has two bounds");
  }
  return cells;
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

/** The codes of numbers, float32 (blocks, 256), which are used up. */
export function quantized(numbers: Tensor, { lowest, bound }: CodeTable): Codes {
  return scope(() => {
    const { shape } = numbers;
    const absmax = scope(() => {
      const [most, least] = [
        numbers.amax({ dim: [1], keepdim: true }),
        numbers.amin({ dim: [1], keepdim: true }),
      ];
      return most.maximum(least.neg_()).clampMin_(LEAST);
    });
    const cells = numbers.div_(absmax).viewDtype("int32").bitwiseRightShift(16).add_(-FIRST_CELL).view([-1]);
    const above = scope(() => numbers.view([-1]).gt(bound.indexSelect(0, cells)));
    const codes = lowest.indexSelect(0, cells).add_(above.viewDtype("uint8")).view(shape);
    return { codes, absmax };
  });
}
