/** Kernels of dropout, whose mask depends on nothing but seed, row and column, so that whoever needs it makes it again. */
import { arange } from "../create.ts";
import { scope, type Tensor } from "../tensor.ts";
import { type Fused, kernel } from "./fusedKernel.ts";
import type { Work } from "./nvrtc.ts";

/** Which part of a mask: its rows and columns from these on. */
export interface MaskWindow {
  probability: number;
  /** 64 bits. */
  seed: bigint;
  row: number;
  column: number;
}

/** (rows, columns) each, whose rows may lie apart. */
type DropoutInputs = [out: Tensor, x: Tensor];

/** Numbers of 16 bits in a word of 64. */
const LANES = 4;
/** Elements that the twin makes a mask of at a time. */
const TWIN_ELEMENTS = 2 ** 20;

export const dropoutKernels = {
  /** out = mask * x / (1 - probability); out may be x. */
  dropped: dropoutKernel("dropped", [1], (out, kept) => out.copy_(kept)),
  /** out += mask * x / (1 - probability). */
  addDropped: dropoutKernel("add_dropped", [0, 1], (out, kept) => out.add_(kept)),
} as const;

/** settle: what the twin does with what is kept of x. */
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

/** How many of the 2^16 numbers mean that an element is dropped; not all of them. */
function boundOf({ probability }: MaskWindow): number {
  return Math.min(Math.round(probability * 2 ** 16), 2 ** 16 - 1);
}

/** Eight columns of a row a thread. */
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

/** Calls body for some rows at a time, with what cuts them out of a tensor, and where their elements are dropped. */
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

/** Where elements are dropped: bool, of this shape. */
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
    // Numbers of 16 bits come with a sign here, so the least comes first where the first bit is turned over.
    const drawn = mixed
      .viewDtype("int16")
      .narrow(1, lane, columns)
      .bitwiseXor(-(2 ** 15));
    return drawn.lt(boundOf(window) - 2 ** 15);
  });
}

/** SplitMix64's outputs for numbers of its sequence, which are overwritten. Source: Steele, Lea, Flood, 2014. */
function splitMix(numbers: Tensor, seed: bigint): Tensor {
  const signed = (bits: bigint): bigint => BigInt.asIntN(64, bits);
  const shifted = (z: Tensor, by: number): Tensor =>
    z.bitwiseRightShift(by).bitwiseAnd(2n ** BigInt(64 - by) - 1n); // shifting alone repeats the sign
  let z = numbers.mul_(signed(0x9e37_79b9_7f4a_7c15n)).add_(signed(seed));
  z = z.bitwiseXor(shifted(z, 30)).mul_(signed(0xbf58_476d_1ce4_e5b9n));
  z = z.bitwiseXor(shifted(z, 27)).mul_(signed(0x94d0_49bb_1331_11ebn));
  return z.bitwiseXor(shifted(z, 31));
}
