/**
 * Fused kernels: each does the work of several operators in one pass over memory. On a card, the CUDA source
 * runs. On the CPU, the loop in native/cpu_loops.cc with the name of its entry runs.
 * For other dtypes, a twin of ATen operators runs. Tests compare sources and loops with the twins.
 */
import { arange, empty, fromArray, full } from "../create.ts";
import { siluBackward } from "../ops.gen.ts";
import { scope, type Tensor } from "../tensor.ts";
import { dropoutKernels } from "./dropout.ts";
import { fp8Kernels } from "./fp8.ts";
import { kernel } from "./fusedKernel.ts";
import type { Work } from "./nvrtc.ts";
import { optimizerKernels } from "./optimizer.ts";
import { NF4_VALUES, PRODUCT_ROWS, PRODUCT_TOKENS } from "./quantizedSources.ts";
import { THREADS } from "./sources.ts";

/**
 * A matrix in NF4, in blocks of 64. Each block's largest magnitude is stored in 8 bits, as bitsandbytes does
 * (double quantisation).
 */
export type Nf4Inputs = [
  /** (rows, columns): receives a window of the matrix. */
  out: Tensor,
  /** (n / 2) uint8 for a matrix of n elements; the first of two is in the high bits. */
  codes: Tensor,
  /** (n / 64) uint8: each block's index into `table`. */
  absmax: Tensor,
  /** (256) float32 */
  table: Tensor,
  /** (n / 64 / 256) float32: a scale for each 256 blocks. */
  scales: Tensor,
];

export interface Nf4Window {
  /** Number added to each magnitude. */
  offset: number;
  /** Columns of the whole matrix. */
  width: number;
  /** First row and column of the window. */
  row: number;
  column: number;
}

type Packed<Inputs> = Inputs extends [Tensor, ...infer Rest extends Tensor[]] ? Rest : never;

interface ProductOptions {
  /** 1: adds to the contents of `out`. 0: overwrites them. */
  add: 0 | 1;
}

/**
 * u: (T, G, Q+2, D), contiguous. cos, sin: T * D/2 elements. query: (T, G, Q, D); key, value: (T, G, D);
 * these three may have any strides between rows and between groups.
 */
export type RopeInputs = [u: Tensor, cos: Tensor, sin: Tensor, query: Tensor, key: Tensor, value: Tensor];

/** Number of NF4 elements, about, that the twin converts at a time: 1 MiB of float32. */
const NF4_TILE_ELEMENTS = 2 ** 18;

/**
 * The kernels by name. A kernel works in place if it writes what it reads. The order of inputs is that of the
 * CUDA source.
 */
export const fused = {
  ...dropoutKernels,
  ...fp8Kernels,
  ...optimizerKernels,
  /** out = silu(gate) * up. All have one number of elements; `out` may be `gate` or `up`. */
  swiglu: kernel<[out: Tensor, gate: Tensor, up: Tensor], void>({
    source: "swiglu",
    entry: "swiglu",
    scalars: (out) => out,
    work: ([out, gate, up]) => elementwise([out, gate, up], out.numel),
    reads: [1, 2],
    writes: [0],
    twin: ([out, gate, up]) => out.copy_(gate.silu().mul_(up)),
    tolerance: 1e-6,
  }),
  /**
   * Replaces gate and up by their gradients, given `grad`, the gradient of swiglu's result. `grad` is not
   * changed.
   */
  swigluBackward: kernel<[grad: Tensor, gate: Tensor, up: Tensor], void>({
    source: "swiglu",
    entry: "swiglu_backward",
    scalars: (grad) => grad,
    work: ([grad, gate, up]) => elementwise([grad, gate, up], grad.numel),
    reads: [0, 1, 2],
    writes: [1, 2],
    twin: ([grad, gate, up]) => {
      const dUp = grad.mul(gate.silu());
      gate.copy_(siluBackward(grad.mul(up), gate));
      up.copy_(dUp);
    },
    tolerance: 1e-6,
  }),
  /**
   * out = the RMS norm of x over the last dim, rounded to the scalars' dtype before it is multiplied by the
   * weight. out, x: (T, C); weight: (C).
   */
  rmsNorm: kernel<[out: Tensor, x: Tensor, weight: Tensor], { eps: number }>({
    source: "rmsNorm",
    entry: "rms_norm",
    scalars: (out) => out,
    work: ([out, x, weight], { eps }) => ({
      threads: (x.numel / weight.numel) * THREADS,
      inputs: [out, x, weight, { float: eps }, weight.numel],
    }),
    reads: [1],
    writes: [0],
    twin: ([out, x, weight], { eps }) => {
      const wide = widened(x);
      const inverseRms = wide.square().meanDim([-1], { keepdim: true }).add_(eps).rsqrt_(); // (T, 1)
      out.copy_(wide.mul(inverseRms)).mul_(weight);
    },
    tolerance: 1e-5,
    roundings: 2,
  }),
  /**
   * into += the gradient of the RMS norm of x over the last dim, given `grad`, the gradient of its output.
   * into, grad, x: (T, C); weight: (C).
   */
  addRmsNormGradient: kernel<[into: Tensor, grad: Tensor, x: Tensor, weight: Tensor], { eps: number }>({
    source: "rmsNorm",
    entry: "add_rms_norm_gradient",
    scalars: (into) => into,
    work: ([into, grad, x, weight], { eps }) => ({
      threads: (x.numel / weight.numel) * THREADS,
      inputs: [into, grad, x, weight, { float: eps }, weight.numel],
    }),
    reads: [0, 1, 2],
    writes: [0],
    twin: ([into, grad, x, weight], { eps }) => {
      const wide = widened(x);
      const inverseRms = wide.square().meanDim([-1], { keepdim: true }).add_(eps).rsqrt_(); // (T, 1)
      const normalized = wide.mul(inverseRms);
      const gradient = widened(grad).mul(weight);
      const projection = gradient.mul(normalized).meanDim([-1], { keepdim: true }); // (T, 1)
      into.add_(gradient.sub_(normalized.mul_(projection)).mul_(inverseRms));
    },
    tolerance: 1e-5,
  }),
  /**
   * Replaces logits, (n, V), by scale * (softmax - onehot of targets). targets: (n) int64. losses, (n)
   * float32: receives the negative log likelihood of each row.
   */
  softmaxGradient: kernel<[logits: Tensor, targets: Tensor, losses: Tensor], { scale: number }>({
    source: "softmaxGradient",
    entry: "softmax_gradient",
    scalars: (logits) => logits,
    work: ([logits, targets, losses], { scale }) => ({
      threads: targets.numel * THREADS,
      inputs: [logits, targets, losses, { float: scale }, logits.numel / targets.numel],
    }),
    reads: [0, 0],
    writes: [0, 2],
    twin: ([logits, targets, losses], { scale }) => {
      const wide = widened(logits);
      const index = targets.unsqueeze(1);
      const wanted = wide.gather(1, index);
      const max = wide.amax({ dim: [-1], keepdim: true }); // (n, 1)
      const exp = wide.sub(max).exp_();
      const sum = exp.sumDim([-1], { keepdim: true }); // (n, 1)
      losses.copy_(sum.log().add_(max).sub_(wanted).squeeze(1));
      const { dtype, device } = exp;
      exp
        .mul_(sum.reciprocal().mul_(scale))
        .scatterAdd_(1, index, full(index.shape, -scale, { dtype, device }));
      logits.copy_(exp);
    },
    tolerance: 1e-5,
  }),
  /**
   * Rotates u's queries and keys by their positions into `query` and `key`, and copies u's values into
   * `value`. These may be views of u.
   */
  ropeUnpack: kernel<RopeInputs, void>({
    source: "rope",
    entry: "rope_unpack",
    strided: [3, 4, 5],
    scalars: (u) => u,
    work: ropeWork,
    reads: [0, 1, 2],
    writes: [3, 4, 5],
    twin: ([u, cos, sin, query, key, value]) => {
      const Q = query.shape[2]!;
      rotate(u.narrow(2, 0, Q), query, cos, sin, 1);
      if (u.shape[2] === Q) return;
      rotate(u.narrow(2, Q, 1), key.unsqueeze(2), cos, sin, 1);
      value.copy_(u.select(2, Q + 1));
    },
    tolerance: 1e-6,
  }),
  /**
   * Reverses ropeUnpack, for gradients: rotates `query` and `key` backwards into u, and copies `value` into
   * u. These may be views of u.
   */
  ropePack: kernel<RopeInputs, void>({
    source: "rope",
    entry: "rope_pack",
    strided: [3, 4, 5],
    scalars: (u) => u,
    work: ropeWork,
    reads: [1, 2, 3, 4, 5],
    writes: [0],
    twin: ([u, cos, sin, query, key, value]) => {
      const Q = query.shape[2]!;
      rotate(query, u.narrow(2, 0, Q), cos, sin, -1);
      if (u.shape[2] === Q) return;
      rotate(key.unsqueeze(2), u.narrow(2, Q, 1), cos, sin, -1);
      u.select(2, Q + 1).copy_(value);
    },
    tolerance: 1e-6,
  }),
  /** Converts a window of a matrix in NF4 to the scalars' dtype. */
  dequantizeNf4: kernel<Nf4Inputs, Nf4Window>({
    source: "dequantize",
    entry: "dequantize_nf4",
    scalars: (out) => out,
    work: ([out, ...packed], { offset, width, row, column }) => ({
      threads: Math.ceil(out.numel / 8),
      inputs: [out, ...packed, { float: offset }, width, row, column, out.shape[1]!],
      count: out.numel,
    }),
    reads: [],
    writes: [0],
    twin: dequantizeNf4Twin,
    tolerance: 1e-6,
  }),
  /**
   * out = codes * the scale of their row * unit. out: (rows, columns); codes: (rows, columns) int8, any
   * stride between rows; scales: (rows) float32.
   */
  dequantizeInt8: kernel<[out: Tensor, codes: Tensor, scales: Tensor], { unit: number }>({
    source: "dequantize",
    entry: "dequantize_int8",
    strided: [1],
    scalars: (out) => out,
    work: ([out, codes, scales], { unit }) => ({
      threads: Math.ceil(out.numel / 8),
      inputs: [out, codes, scales, { float: unit }, codes.strides[0]!, codes.shape[1]!],
      count: out.numel,
    }),
    reads: [1],
    writes: [0],
    twin: ([out, codes, scales], { unit }) => {
      const factors = scales.mul(unit).view([-1, 1]); // (rows, 1)
      out.copy_(codes.to({ dtype: "float32" }).mul_(factors));
    },
    tolerance: 1e-6,
  }),
  /**
   * out = add * out + x W^T, for few rows of x. W is a window of a matrix in NF4; no full-precision copy of W
   * is made.
   */
  productNf4: kernel<[out: Tensor, x: Tensor, ...Packed<Nf4Inputs>], Nf4Window & ProductOptions>({
    source: "product",
    entry: "product_nf4",
    onCpu: false,
    strided: [0, 1],
    scalars: (out) => out,
    work: ([out, x, ...packed], { offset, width, row, column, add }) => ({
      threads: productThreads(out),
      inputs: [out, x, ...packed, { float: offset }, width, row, column, ...productSizes(out, x, add)],
    }),
    reads: [1],
    readsOf: ([out, x, codes]) => [codes.narrow(0, 0, (out.shape[1]! * x.shape[1]!) >> 1)],
    writes: [0],
    twin: ([out, x, ...packed], { add, ...window }) => {
      const weight = weightFor(out, x); // (rows, columns)
      fused.dequantizeNf4.twin([weight, ...packed], window);
      out.addmm_(x, weight.t(), { beta: add });
    },
    tolerance: 1e-5,
  }),
  /**
   * Multiplies like productNf4, with a matrix in int8. codes: (rows, columns), any stride between rows;
   * scales: (rows) float32.
   */
  productInt8: kernel<
    [out: Tensor, x: Tensor, codes: Tensor, scales: Tensor],
    { unit: number } & ProductOptions
  >({
    source: "product",
    entry: "product_int8",
    onCpu: false,
    strided: [0, 1, 2],
    scalars: (out) => out,
    work: ([out, x, codes, scales], { unit, add }) => ({
      threads: productThreads(out),
      inputs: [
        ...[out, x, codes, scales, { float: unit }],
        ...[codes.strides[0]!, ...productSizes(out, x, add)],
      ],
    }),
    reads: [1, 2],
    writes: [0],
    twin: ([out, x, codes, scales], { unit, add }) => {
      const weight = weightFor(out, x); // (rows, columns)
      fused.dequantizeInt8.twin([weight, codes, scales], { unit });
      out.addmm_(x, weight.t(), { beta: add });
    },
    tolerance: 1e-5,
  }),
} as const;

/** Divides the work: a thread computes eight elements. */
function elementwise(inputs: readonly Tensor[], count: number): Work {
  return { threads: Math.ceil(count / 8), inputs, count };
}

/**
 * Returns the number of threads. A block computes PRODUCT_ROWS outputs for PRODUCT_TOKENS rows of x. out:
 * (tokens, rows of W)
 */
function productThreads(out: Tensor): number {
  const [tokens = 0, rows = 0] = out.shape;
  return THREADS * Math.ceil(rows / PRODUCT_ROWS) * Math.ceil(tokens / PRODUCT_TOKENS);
}

function productSizes(out: Tensor, x: Tensor, add: 0 | 1): number[] {
  return [out.shape[0]!, out.shape[1]!, x.shape[1]!, x.strides[0]!, out.strides[0]!, add];
}

function weightFor(out: Tensor, x: Tensor): Tensor {
  return empty([out.shape[1]!, x.shape[1]!], { dtype: x.dtype, device: x.device });
}

function ropeWork([u, cos, sin, query, key, value]: RopeInputs): Work {
  const [T = 0, G = 0, heads = 0, D = 0] = u.shape;
  const half = D / 2;
  const betweenHeads = [query, key, value].flatMap(({ strides }) => strides.slice(0, 2));
  return {
    threads: T * G * heads * Math.ceil(half / 8),
    inputs: [u, cos, sin, query, key, value, G, heads, query.shape[2]!, half, ...betweenHeads],
    count: T,
  };
}

/** Rotates pairs (i, i + D/2) of `from` into `to`, which may be the same memory. Both: (T, G, heads, D). */
function rotate(from: Tensor, to: Tensor, cos: Tensor, sin: Tensor, direction: 1 | -1): void {
  const half = from.shape[3]! / 2;
  const [c, s] = [cos.view([-1, 1, 1, half]), sin.view([-1, 1, 1, half])];
  const [first, second] = [from.narrow(3, 0, half), from.narrow(3, half, half)];
  const turned = first.mul(c).sub_(second.mul(s), { alpha: direction });
  to.narrow(3, half, half).copy_(second.mul(c).add_(first.mul(s), { alpha: direction }));
  to.narrow(3, 0, half).copy_(turned);
}

/**
 * Converts a few rows at a time, so that the float32 intermediates stay small. Finds each element's code and
 * block by its number in the whole matrix.
 */
function dequantizeNf4Twin(
  [out, codes, absmax, table, scales]: Nf4Inputs,
  { offset, width, row, column }: Nf4Window,
): void {
  const { device } = out;
  const [rows, columns] = [out.shape[0]!, out.shape[1]!];
  const values = fromArray(Float32Array.from(NF4_VALUES), [16], { device });
  const tileRows = Math.max(1, Math.floor(NF4_TILE_ELEMENTS / columns));
  const look = (from: Tensor, at: Tensor): Tensor => from.indexSelect(0, at.view([-1])).view(at.shape);
  for (let start = 0; start < rows; start += tileRows) {
    scope(() => {
      const count = Math.min(tileRows, rows - start);
      const starts = arange(row + start, row + start + count, { device })
        .mul_(width)
        .view([count, 1]);
      const number = starts.add(arange(column, column + columns, { device })); // (count, columns) int64
      const pair = look(codes, number.bitwiseRightShift(1)).to({ dtype: "int32" });
      const low = number.bitwiseAnd(1).to({ dtype: "int32" });
      const code = pair.bitwiseRightShift(low.rsub(1).mul_(4)).bitwiseAnd(15);
      const block = number.bitwiseRightShift(6);
      const magnitude = look(table, look(absmax, block).to({ dtype: "int32" }));
      const factor = magnitude.mul_(look(scales, block.bitwiseRightShift(8))).add_(offset);
      out.narrow(0, start, count).copy_(look(values, code).mul_(factor));
    });
  }
}

function widened(x: Tensor): Tensor {
  return x.to({ dtype: x.dtype === "float64" ? "float64" : "float32" });
}
