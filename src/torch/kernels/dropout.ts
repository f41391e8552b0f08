/**
 * Kernels of dropout. The mask depends only on seed, row and column, so it is computed again instead of
 * stored.
 */
import { arange } from "../create.ts";
import { scope, type Tensor } from "../tensor.ts";
import { type Fused, kernel } from "./fusedKernel.ts";
import type { Work } from "./nvrtc.ts";

/** A part of a mask, which begins at `row` and `column`. */
export interface MaskWindow {
  probability: number;
  /** Seed of 64 bits. */
  seed: bigint;
  row: number;
  column: number;
}

/** Both (rows, columns), with any stride between rows. */
type DropoutInputs = [out: Tensor, x: Tensor];

/** Number of 16-bit numbers in a 64-bit word. */
const LANES = 4;
/** Number of elements, about, that the twin makes a mask for at a time. */
const TWIN_ELEMENTS = 2 ** 20;

export const dropoutKernels = {
  /** out = mask * x / (1 - probability); out may be x. */
  dropped: dropoutKernel("dropped", [1], (out, kept) => out.copy_(kept)),
  /** out += mask * x / (1 - probability). */
  addDropped: dropoutKernel("add_dropped", [0, 1], (out, kept) => out.add_(kept)),
} as const;

/** Makes a kernel of dropout. settle: writes the kept elements of x into `out`, for the twin. */
function dropoutKernel(
  entry: string,
  reads: readonly number[],
  settle: (out: Tensor, kept: Tensor) => void,
): Fused<DropoutInputs, MaskWindow> {
  return kernel<DropoutInputs, MaskWindow>({
    ...{ source: "dropout", entry, strided: [0, 1], reads, writes: [0], tolerance: 1e-6 },
    scalars: (out) => out,
    work: dropoutWork,
    twin: ([out, x], window) =>
      forEachMask(x, window, (part, mask) => {
        settle(part(out), part(x).mul(scaleOf(window)).maskedFill_(mask, 0));
      }),
  });
}

function scaleOf({ probability }: MaskWindow): number {
  return 1 / (1 - probability);
}

/** Returns how many of the 2^16 numbers drop an element: at most 2^16 - 1. */
function boundOf({ probability }: MaskWindow): number {
  return Math.min(Math.round(probability * 2 ** 16), 2 ** 16 - 1);
}

/** Divides the work: a thread computes eight columns of a row. */
function dropoutWork([out, x]: DropoutInputs, window: MaskWindow): Work {
  const [rows = 0, columns = 0] = x.shape;
  const { row, column, seed } = window;
  return {
    threads: rows * Math.ceil(columns / 8),
    inputs: [
      ...[out, x, out.strides[0]!, x.strides[0]!, columns, row, column],
      ...[Number(BigInt.asUintN(32, seed)), Number(BigInt.asUintN(32, seed >> 32n))],
      ...[boundOf(window), { float: scaleOf(window) }],
    ],
    count: rows,
  };
}

/**
 * Calls `body` for a few rows at a time. part: cuts these rows out of a tensor. mask: true for dropped
 * elements.
 */
function forEachMask(
  x: Tensor,
  window: MaskWindow,
  body: (part: (of: Tensor) => Tensor, mask: Tensor) => void,
): void {
  const [rows = 0, columns = 0] = x.shape;
  const tileRows = Math.max(1, Math.floor(TWIN_ELEMENTS / columns));
  for (let start = 0; start < rows; start += tileRows) {
    const count = Math.min(tileRows, rows - start);
    const mask = (): Tensor => maskOf([count, columns], { ...window, row: window.row + start }, x);
    scope(() => body((of) => of.narrow(0, start, count), mask()));
  }
}

/** Returns the mask: bool of this shape, true for dropped elements. */
function maskOf([rows, columns]: [number, number], window: MaskWindow, { device }: Tensor): Tensor {
  return scope(() => {
    const { row, column, seed } = window;
    const lane = column % LANES;
    const word = (column - lane) / LANES;
    const words = Math.ceil((lane + columns) / LANES);
    const rowNumbers = arange(row, row + rows, { device })
      .mul_(2n ** 32n)
      .view([-1, 1]);
    const numbers = rowNumbers.add(arange(word + 1, word + 1 + words, { device })); // (rows, words) int64
    const mixed = splitMix(numbers, seed);
    // These 16-bit numbers are signed. Flipping the top bit gives the order of unsigned numbers.
    const drawn = mixed
      .viewDtype("int16")
      .narrow(1, lane, columns)
      .bitwiseXor(-(2 ** 15));
    return drawn.lt(boundOf(window) - 2 ** 15);
  });
}

/**
 * Returns SplitMix64's outputs for numbers of its sequence, and overwrites these numbers. Source: Steele,
 * Lea, Flood, 2014.
 */
function splitMix(numbers: Tensor, seed: bigint): Tensor {
  const signed = (bits: bigint): bigint => BigInt.asIntN(64, bits);
  const shifted = (z: Tensor, by: number): Tensor =>
    z.bitwiseRightShift(by).bitwiseAnd(2n ** BigInt(64 - by) - 1n); // the shift alone repeats the sign bit
  let z = numbers.mul_(signed(0x9e37_79b9_7f4a_7c15n)).add_(signed(seed));
  z = z.bitwiseXor(shifted(z, 30)).mul_(signed(0xbf58_476d_1ce4_e5b9n));
  z = z.bitwiseXor(shifted(z, 27)).mul_(signed(0x94d0_49bb_1331_11ebn));
  return z.bitwiseXor(shifted(z, 31));
}
