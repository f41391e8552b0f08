/** Random inputs of every fused kernel, for those who run its source: on a card, and as C++ on the CPU. */
import { empty, rand, randint, randn, zeros } from "../../src/torch/create.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { fused } from "../../src/torch/kernels.ts";
import type { Launch } from "../../src/torch/nvrtc.ts";
import type { Tensor } from "../../src/torch/tensor.ts";

export interface Sizes {
  rows: number;
  columns: number;
  /** A small number for whatever else there is to vary: kv heads, blocks before a slice. */
  extra: number;
}

export interface KernelCase {
  inputs: Tensor[];
  options: unknown;
  /** Indexes of the inputs that the kernel writes. */
  written: number[];
}

type CaseOf = (sizes: Sizes, dtype: DType) => KernelCase;

/** A kernel as one that takes whatever a case has. */
export interface AnyKernel {
  (inputs: readonly Tensor[], options: unknown): void;
  source: Launch["source"];
  entry: string;
  tolerance: number;
  roundings?: number;
  work(inputs: readonly Tensor[], options: unknown): Pick<Launch, "threads" | "inputs">;
  twin(inputs: readonly Tensor[], options: unknown): void;
}

export const kernelOf = (name: keyof typeof fused): AnyKernel => fused[name] as unknown as AnyKernel;

/** Relative rounding of a result in each dtype of scalars. */
export const ROUNDING = { float32: 0, bfloat16: 2 ** -8, float16: 2 ** -11 } as const;
export type Scalars = keyof typeof ROUNDING;

export const CASES: Record<keyof typeof fused, CaseOf> = {
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
  dequantizeNf4: ({ rows, columns, extra }, dtype) => {
    // A window inside of a matrix that is larger by `extra` on each side.
    const width = columns + 2 * extra;
    const elements = (rows + 2 * extra) * width;
    const blocks = Math.ceil(elements / 64);
    const bytes = (n: number) => randint(0, 256, [n], { dtype: "uint8" });
    const scales = rand([Math.ceil(blocks / 256)]);
    return {
      inputs: [
        empty([rows, columns], { dtype }),
        bytes(Math.ceil(elements / 2)),
        bytes(blocks),
        randn([256]),
        scales,
      ],
      options: { offset: 0.7, width, row: extra, column: extra },
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
};

/** Heads of D = 2 * columns; query, key and value with places of their own. */
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

/** The inputs in float32 where they are scalars, copied in any case: for the twin that says what is right. */
export function exactInputs(inputs: readonly Tensor[], dtype: DType): Tensor[] {
  return inputs.map((input) =>
    input.dtype === dtype ? input.to({ dtype: "float32", copy: true }) : input.clone(),
  );
}

/** Norm of the difference to what is right, relative to the norm of that. */
export function difference(actual: Float32Array, right: Float32Array): number {
  let [off, all] = [0, 0];
  for (const [at, wanted] of right.entries()) {
    off += (actual[at]! - wanted) ** 2;
    all += wanted ** 2;
  }
  return all === 0 ? Math.sqrt(off) : Math.sqrt(off / all);
}
