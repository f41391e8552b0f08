/**
 * Kernels for products in fp8: they convert activations, with a scale for each row, and transpose weights.
 * They exist on cards only.
 */

import { scope, type Tensor } from "../tensor.ts";
import { kernel } from "./fusedKernel.ts";
import type { Work } from "./nvrtc.ts";
import { TURN_EDGE } from "./quantizedSources.ts";
import { THREADS } from "./sources.ts";

type Fp8Rows = [codes: Tensor, scales: Tensor, x: Tensor];

/** Largest number of e4m3. */
const MOST_E4M3 = 448;
/** Least value for the largest magnitude of a row, so that a row of zeros has a scale too. */
const SMALLEST_OF_ROW = 1e-30;
/** Number of elements, about, that the twin converts at a time. */
const TWIN_ELEMENTS = 2 ** 22;

export const fp8Kernels = {
  /** out = x transposed. x: (rows, columns), any stride between rows; out: (columns, rows); uint8. */
  turnedBytes: kernel<[out: Tensor, x: Tensor], void>({
    source: "turn",
    entry: "turned_bytes",
    onCpu: false,
    strided: [1],
    scalars: (out) => out,
    work: ([out, x]) => {
      const [rows = 0, columns = 0] = x.shape;
      const squares = Math.ceil(rows / TURN_EDGE) * Math.ceil(columns / TURN_EDGE);
      return { threads: squares * THREADS, inputs: [out, x, x.strides[0]!, rows, columns] };
    },
    reads: [1],
    writes: [0],
    twin: ([out, x]) => out.copy_(x.t()),
    tolerance: 0,
    roundings: 0,
  }),
  /** Converts the rows of x, (T, n), to fp8. codes: (T, n) e4m3; scales: (T, 1) float32, one for each row. */
  rowsFp8: kernel<Fp8Rows, void>({
    source: "rowsFp8",
    entry: "rows_fp8",
    onCpu: false,
    strided: [2],
    scalars: (_codes, _scales, x) => x,
    work: ([codes, scales, x]) => fp8RowsWork(x, [codes, scales, x]),
    reads: [2],
    writes: [0, 1],
    twin: (inputs) => fp8RowsTwin(inputs),
    tolerance: 0,
    roundings: 0,
  }),
  /** Multiplies the columns of x by `factors`, (n) float32, and converts the result as `rowsFp8` does. */
  multipliedRowsFp8: kernel<[...Fp8Rows, factors: Tensor], void>({
    source: "rowsFp8",
    entry: "multiplied_rows_fp8",
    onCpu: false,
    strided: [2],
    scalars: (_codes, _scales, x) => x,
    work: ([codes, scales, x, factors]) => fp8RowsWork(x, [codes, scales, x, factors]),
    reads: [2, 3],
    writes: [0, 1],
    twin: ([codes, scales, x, factors]) => fp8RowsTwin([codes, scales, x], factors),
    tolerance: 0,
    roundings: 0,
  }),
} as const;

/** Divides the work: a block of threads converts a row. */
function fp8RowsWork(x: Tensor, inputs: readonly Tensor[]): Work {
  return { threads: x.shape[0]! * THREADS, inputs: [...inputs, x.strides[0]!, x.shape[1]!] };
}

function fp8RowsTwin([codes, scales, x]: Fp8Rows, factors?: Tensor): void {
  const tileRows = Math.max(1, Math.floor(TWIN_ELEMENTS / x.shape[1]!));
  for (let start = 0; start < x.shape[0]!; start += tileRows) {
    scope(() => {
      const part = (of: Tensor): Tensor => of.narrow(0, start, Math.min(tileRows, x.shape[0]! - start));
      const wide = factors ? part(x).mul(factors) : part(x).to({ dtype: "float32" }); // (t, n) float32
      const most = wide
        .abs()
        .amax({ dim: [1], keepdim: true })
        .clampMin_(SMALLEST_OF_ROW); // (t, 1)
      part(scales).copy_(most).div_(MOST_E4M3);
      const scaled = wide.mul(most.reciprocal().mul_(MOST_E4M3));
      part(codes).copy_(scaled.clamp_({ min: -MOST_E4M3, max: MOST_E4M3 }));
    });
  }
}
