/**
 * Random inputs for every fused kernel. Tests run the kernel's source with them: on a card, and as C++ on the
 * CPU.
 */
import { expect } from "vitest";
import { empty, full, rand, randint, randn, zeros } from "../../src/torch/create.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { fused } from "../../src/torch/kernels/kernels.ts";
import type { Launch, Work } from "../../src/torch/kernels/nvrtc.ts";
import type { Tensor } from "../../src/torch/tensor.ts";

export interface Sizes {
  rows: number;
  columns: number;
  /** A small number for anything else that varies, for example kv heads, or blocks before a slice. */
  extra: number;
}

export interface KernelCase {
  inputs: Tensor[];
  options: unknown;
  /** Indexes of the inputs that the kernel writes. */
  written: number[];
}

export type CaseOf = (sizes: Sizes, dtype: DType) => KernelCase;

/** A kernel without the types of its inputs and options, so that any case fits. */
export interface AnyKernel {
  (inputs: readonly Tensor[], options: unknown): void;
  source: Launch["source"];
  entry: string;
  strided?: readonly number[];
  tolerance: number;
  roundings?: number;
  work(inputs: readonly Tensor[], options: unknown): Work;
  twin(inputs: readonly Tensor[], options: unknown): void;
}

export const kernelOf = (name: keyof typeof fused): AnyKernel => fused[name] as unknown as AnyKernel;

/** Relative rounding error of a result in each dtype. */
export const ROUNDING = { float32: 0, bfloat16: 2 ** -8, float16: 2 ** -11 } as const;
export type Scalars = keyof typeof ROUNDING;

export const CASES: Record<keyof typeof fused, CaseOf> = {
  adamW: ({ rows, columns, extra }, dtype) => {
    const wide = (): Tensor => randn([rows, columns]);
    const scale = full([], extra === 4 ? Number.NaN : 0.5); // with NaN only the gradients may change
    return {
      inputs: [wide(), randn([rows, columns], { dtype }), wide(), wide().square(), scale],
      options: {
        ...{ decay: 0.99, meanRate: 0.1, squareKeep: 0.95, squareRate: 0.05 },
        ...{ rootFactor: 1.5, epsilon: 1e-8, stepSize: 1e-3 },
      },
      written: [0, 1, 2, 3],
    };
  },
  dropped: dropoutCase,
  addDropped: dropoutCase,
  swiglu: ({ rows, columns }, dtype) => ({
    inputs: [
      zeros([rows * columns], { dtype }),
      randn([rows * columns], { dtype }),
      randn([rows * columns], { dtype }),
    ],
    options: undefined,
    written: [0],
  }),
  swigluBackward: ({ rows, columns }, dtype) => ({
    inputs: [1, 2, 3].map(() => randn([rows * columns], { dtype })),
    options: undefined,
    written: [1, 2],
  }),
  rmsNorm: ({ rows, columns }, dtype) => ({
    inputs: [...[1, 2].map(() => randn([rows, columns], { dtype })), randn([columns], { dtype })],
    options: { eps: 1e-5 },
    written: [0],
  }),
  addRmsNormGradient: ({ rows, columns }, dtype) => ({
    inputs: [...[1, 2, 3].map(() => randn([rows, columns], { dtype })), randn([columns], { dtype })],
    options: { eps: 1e-5 },
    written: [0],
  }),
  softmaxGradient: ({ rows, columns }, dtype) => ({
    inputs: [randn([rows, columns], { dtype }).mul_(4), randint(0, columns, [rows]), zeros([rows])],
    options: { scale: 0.25 },
    written: [0, 2],
  }),
  ropeUnpack: (sizes, dtype) => ({
    inputs: ropeInputs(sizes, dtype),
    options: undefined,
    written: [3, 4, 5],
  }),
  ropePack: (sizes, dtype) => ({ inputs: ropeInputs(sizes, dtype), options: undefined, written: [0] }),
  dequantizeNf4: (sizes, dtype) => {
    const { packed, window } = nf4Window(sizes);
    return {
      inputs: [empty([sizes.rows, sizes.columns], { dtype }), ...packed],
      options: window,
      written: [0],
    };
  },
  dequantizeInt8: ({ rows, columns }, dtype) => ({
    inputs: [
      empty([rows, columns], { dtype }),
      randint(-127, 128, [rows, columns], { dtype: "int8" }),
      rand([rows]),
    ],
    options: { unit: 1 / 127 },
    written: [0],
  }),
  productNf4: (sizes, dtype) => {
    const { x, out, add } = productCase(sizes, dtype);
    const { packed, window } = nf4Window(sizes);
    return { inputs: [out, x, ...packed], options: { ...window, add }, written: [0] };
  },
  productInt8: (sizes, dtype) => {
    const { x, out, add } = productCase(sizes, dtype);
    const codes = randint(-127, 128, [sizes.rows, sizes.columns], { dtype: "int8" });
    return { inputs: [out, x, codes, rand([sizes.rows])], options: { unit: 1 / 127, add }, written: [0] };
  },
  turnedBytes: ({ rows, columns }) => ({
    inputs: [
      zeros([columns, rows], { dtype: "uint8" }),
      randint(0, 256, [rows, columns], { dtype: "uint8" }),
    ],
    options: undefined,
    written: [0],
  }),
  rowsFp8: (sizes, dtype) => ({ inputs: fp8RowsInputs(sizes, dtype), options: undefined, written: [0, 1] }),
  multipliedRowsFp8: (sizes, dtype) => ({
    inputs: [...fp8RowsInputs(sizes, dtype), rand([sizes.columns])],
    options: undefined,
    written: [0, 1],
  }),
};

/** Returns a window of a mask; its first column can be at any place in a word. */
function dropoutCase({ rows, columns, extra }: Sizes, dtype: DType): KernelCase {
  const window = {
    probability: 0.05 + 0.2 * extra,
    seed: 0xfedc_ba98_7654_3210n,
    row: 700 * extra,
    column: extra,
  };
  return { inputs: [1, 2].map(() => randn([rows, columns], { dtype })), options: window, written: [0] };
}

/**
 * Returns codes, scales and rows. The numbers of the rows have many sizes, so that codes of every exponent
 * occur; the last row is zero.
 */
function fp8RowsInputs({ rows, columns }: Sizes, dtype: DType): Tensor[] {
  const x = randn([rows, columns], { dtype }).mul_(randn([rows, columns], { dtype }).mul_(1.5).exp_());
  x.select(0, rows - 1).zero_();
  return [zeros([rows, columns], { dtype: "float8_e4m3fn" }), zeros([rows, 1]), x];
}

/**
 * Returns a window of random codes inside a larger matrix. Depending on `extra`, eight neighbouring columns
 * lie in one block and can be read at once, or not.
 */
function nf4Window({ rows, columns, extra }: Sizes): { packed: Tensor[]; window: object } {
  const margin = extra % 2 === 0 ? 8 : extra;
  const width = columns + 2 * margin;
  const elements = (rows + 2 * extra) * width;
  const blocks = Math.ceil(elements / 64);
  const bytes = (n: number) => randint(0, 256, [n], { dtype: "uint8" });
  return {
    packed: [bytes(Math.ceil(elements / 2)), bytes(blocks), randn([256]), rand([Math.ceil(blocks / 256)])],
    window: { offset: 0.7, width, row: extra, column: margin },
  };
}

/** Returns x and out of out += x W^T, or of out = x W^T, for a W of (rows, columns). */
function productCase({ rows, columns, extra }: Sizes, dtype: DType): { x: Tensor; out: Tensor; add: 0 | 1 } {
  const tokens = 1 + 3 * extra;
  const x = randn([tokens, columns], { dtype });
  return { x, out: randn([tokens, rows], { dtype }), add: extra % 2 === 0 ? 0 : 1 };
}

/** Returns heads of D = 2 * columns, with separate memory for query, key and value. */
function ropeInputs({ rows, columns, extra }: Sizes, dtype: DType): Tensor[] {
  const [G, Q, half] = [1 + (extra % 3), 1 + extra, columns];
  const shapes = [
    [rows, G, Q + 2, 2 * half],
    [rows, half],
    [rows, half],
    [rows, G, Q, 2 * half],
  ];
  const head = [rows, G, 2 * half];
  return [...shapes, head, head].map((shape) => randn(shape, { dtype }));
}

/**
 * Compares what a kernel writes with what its twin computes in float32. run: returns a function that gives an
 * input as the kernel left it.
 */
export function compareToTwin(
  kernel: Pick<AnyKernel, "entry" | "tolerance" | "roundings" | "twin">,
  { inputs, options, written }: KernelCase,
  dtype: Scalars,
  run: () => (index: number) => Tensor,
): void {
  const right = exactInputs(inputs, dtype);
  const adds = kernel.entry.startsWith("add_");
  const before = written.map((index) => (adds ? normOf(right[index]!) : 0));
  kernel.twin(right, options);
  const resultOf = run();
  const bound = kernel.tolerance + (kernel.roundings ?? 1) * ROUNDING[dtype];
  for (const [at, index] of written.entries()) {
    // A sum may come near zero, but is rounded as its parts are.
    const norm = normOf(right[index]!);
    const share = norm > 0 && norm < before[at]! ? norm / before[at]! : 1;
    const off = share * difference(resultOf(index).toFloat32Array(), right[index]!.toFloat32Array());
    expect(off, `${kernel.entry}, input ${index}`).toBeLessThanOrEqual(bound);
  }
}

/**
 * Copies the inputs for the twin that computes the expected values; inputs of the kernel's dtype become
 * float32.
 */
function exactInputs(inputs: readonly Tensor[], dtype: DType): Tensor[] {
  return inputs.map((input) =>
    input.dtype === dtype ? input.to({ dtype: "float32", copy: true }) : input.clone(),
  );
}

function normOf(x: Tensor): number {
  return Math.sqrt(x.toFloat32Array().reduce((sum, each) => sum + each ** 2, 0));
}

/** Returns the norm of the difference, relative to the norm of the expected values. */
export function difference(actual: Float32Array, right: Float32Array): number {
  let [off, all] = [0, 0];
  for (const [at, wanted] of right.entries()) {
    off += (actual[at]! - wanted) ** 2;
    all += wanted ** 2;
  }
  return all === 0 ? Math.sqrt(off) : Math.sqrt(off / all);
}
