/**
 * Fused kernels: each does in one pass over memory what takes several operators. On a card the CUDA source runs, elsewhere (and for
 * dtypes that the source doesn't know) its twin of ATen operators, to which tests hold it.
 */
import { fromArray, full } from "./create.ts";
import { NF4_VALUES, THREADS } from "./kernelSources.ts";
import { hasScalar, type KernelCode, type Launch, launch } from "./nvrtc.ts";
import { siluBackward } from "./ops.gen.ts";
import { scope, type Tensor } from "./tensor.ts";

interface Kernel<Inputs extends readonly Tensor[], Options> extends Omit<KernelCode, "dtype"> {
  /** The first of the inputs that has the kernel's scalars. */
  scalars: (...inputs: Inputs) => Tensor;
  work: (inputs: Inputs, options: Options) => Pick<Launch, "threads" | "inputs">;
  twin: (inputs: Inputs, options: Options) => void;
  /** Relative difference (of the norm of what is written) to the twin in float32; lower precisions add their own rounding. */
  tolerance: number;
}

/** A kernel to call, with what its table says. */
export type Fused<Inputs extends readonly Tensor[], Options> = Kernel<Inputs, Options> &
  ((inputs: Inputs, options: Options) => void);

/** A weight in NF4: blocks of 64, their largest magnitudes in 8 bits themselves, as bitsandbytes has them (double quantisation). */
export type Nf4Inputs = [
  /** (count): what is written. */
  out: Tensor,
  /** (count / 2) uint8: the first element in the high bits. */
  codes: Tensor,
  /** (blocks) uint8: index into `table`. */
  absmax: Tensor,
  /** (256) float32 */
  table: Tensor,
  /** (all blocks / 256) float32, of the whole weight. */
  scales: Tensor,
  /** (1) float32: added to each magnitude. */
  offset: Tensor,
];

/** u: (T, G, Q+2, D), contiguous; cos, sin: T * D/2 elements; query: (T, G, Q, D), key and value: (T, G, D), of any strides between heads. */
export type RopeInputs = [u: Tensor, cos: Tensor, sin: Tensor, query: Tensor, key: Tensor, value: Tensor];

/** Blocks of NF4 that the twin takes at a time: 1 MiB of float32. */
const NF4_TILE_BLOCKS = 4096;

/** Every kernel works in place where it writes what it reads, and the inputs' order is the CUDA source's. */
export const fused = {
  /** out = silu(gate) * up; all of one number of elements. `out` may be `gate` or `up`. */
  swiglu: kernel<[out: Tensor, gate: Tensor, up: Tensor], void>({
    source: "swiglu",
    entry: "swiglu",
    scalars: (out) => out,
    work: ([out, gate, up]) => elementwise([out, gate, up], out.numel),
    twin: ([out, gate, up]) => out.copy_(gate.silu().mul_(up)),
    tolerance: 1e-6,
  }),
  /** For the gradient of swiglu's result: gate becomes its own gradient, up its own; `grad` stays. */
  swigluBackward: kernel<[grad: Tensor, gate: Tensor, up: Tensor], void>({
    source: "swiglu",
    entry: "swiglu_backward",
    scalars: (grad) => grad,
    work: ([grad, gate, up]) => elementwise([grad, gate, up], grad.numel),
    twin: ([grad, gate, up]) => {
      const dUp = grad.mul(gate.silu());
      gate.copy_(siluBackward(grad.mul(up), gate));
      up.copy_(dUp);
    },
    tolerance: 1e-6,
  }),
  /** into += the gradient of an RMS norm over the last dim at x for the gradient `grad` of its output; (T, C), weight: (C). */
  addRmsNormGradient: kernel<[into: Tensor, grad: Tensor, x: Tensor, weight: Tensor], { eps: number }>({
    source: "rmsNorm",
    entry: "add_rms_norm_gradient",
    scalars: (into) => into,
    work: ([into, grad, x, weight], { eps }) => ({
      threads: (x.numel / weight.numel) * THREADS,
      inputs: [into, grad, x, weight, { float: eps }, weight.numel],
    }),
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
  /** Logits (n, V) become scale * (softmax - onehot of targets (n) int64); losses (n) float32: the rows' negative log likelihoods. */
  softmaxGradient: kernel<[logits: Tensor, targets: Tensor, losses: Tensor], { scale: number }>({
    source: "softmaxGradient",
    entry: "softmax_gradient",
    scalars: (logits) => logits,
    work: ([logits, targets, losses], { scale }) => ({
      threads: targets.numel * THREADS,
      inputs: [logits, targets, losses, { float: scale }, logits.numel / targets.numel],
    }),
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
  /** Rotates u's queries and keys by their positions into `query` and `key`, copies its values into `value`; these may be views of u. */
  ropeUnpack: kernel<RopeInputs, void>({
    source: "rope",
    entry: "rope_unpack",
    scalars: (u) => u,
    work: ropeWork,
    twin: ([u, cos, sin, query, key, value]) => {
      const Q = query.shape[2]!;
      rotate(u.narrow(2, 0, Q), query, cos, sin, 1);
      rotate(u.narrow(2, Q, 1), key.unsqueeze(2), cos, sin, 1);
      value.copy_(u.select(2, Q + 1));
    },
    tolerance: 1e-6,
  }),
  /** The way back, for gradients: u from `query` and `key` rotated backwards and `value`, which may be views of u. */
  ropePack: kernel<RopeInputs, void>({
    source: "rope",
    entry: "rope_pack",
    scalars: (u) => u,
    work: ropeWork,
    twin: ([u, cos, sin, query, key, value]) => {
      const Q = query.shape[2]!;
      rotate(query, u.narrow(2, 0, Q), cos, sin, -1);
      rotate(key.unsqueeze(2), u.narrow(2, Q, 1), cos, sin, -1);
      u.select(2, Q + 1).copy_(value);
    },
    tolerance: 1e-6,
  }),
  /** Elements from blocks of 64, of which the first is block number `block` of the whole weight. */
  dequantizeNf4: kernel<Nf4Inputs, { block: number }>({
    source: "dequantize",
    entry: "dequantize_nf4",
    scalars: (out) => out,
    work: ([out, ...packed], { block }) => ({
      threads: Math.ceil(out.numel / 8),
      inputs: [out, ...packed, block, out.numel],
    }),
    twin: dequantizeNf4Twin,
    tolerance: 1e-6,
  }),
  /** out = codes * scales of their rows; out: (rows, columns), codes: the same in int8, scales: (rows) float32. */
  dequantizeInt8: kernel<[out: Tensor, codes: Tensor, scales: Tensor], void>({
    source: "dequantize",
    entry: "dequantize_int8",
    scalars: (out) => out,
    work: ([out, codes, scales]) => ({
      threads: Math.ceil(out.numel / 8),
      inputs: [out, codes, scales, out.numel / scales.numel, out.numel],
    }),
    twin: ([out, codes, scales]) => {
      const rows = scales.numel;
      out.view([rows, -1]).copy_(
        codes
          .view([rows, -1])
          .to({ dtype: "float32" })
          .mul_(scales.view([rows, 1])),
      );
    },
    tolerance: 1e-6,
  }),
} as const;

/** Runs the source where it can, the twin elsewhere. */
function kernel<Inputs extends readonly Tensor[], Options>(
  known: Kernel<Inputs, Options>,
): Fused<Inputs, Options> {
  const run = (inputs: Inputs, options: Options): void => {
    const { device, dtype } = known.scalars(...inputs);
    const odd = inputs.find((input) => !input.isContiguous && known.source !== "rope");
    if (odd) throw new TypeError(`${known.entry}: inputs must be contiguous, and one is ${odd}`);
    if (device.startsWith("cuda") && hasScalar(dtype)) {
      launch(device, { source: known.source, entry: known.entry, dtype, ...known.work(inputs, options) });
    } else {
      scope(() => known.twin(inputs, options));
    }
  };
  return Object.assign(run, known);
}

/** A thread for eight elements. */
function elementwise(tensors: readonly Tensor[], count: number): Pick<Launch, "threads" | "inputs"> {
  return { threads: Math.ceil(count / 8), inputs: [...tensors, count] };
}

function ropeWork([u, cos, sin, query, key, value]: RopeInputs): Pick<Launch, "threads" | "inputs"> {
  const [T = 0, G = 0, heads = 0, D = 0] = u.shape;
  const half = D / 2;
  const betweenHeads = [query, key, value].flatMap(({ strides }) => strides.slice(0, 2));
  return {
    threads: T * G * heads * Math.ceil(half / 8),
    inputs: [u, cos, sin, query, key, value, T, G, heads - 2, half, ...betweenHeads],
  };
}

/** Pairs (i, i + D/2) of `from`, turned, into `to`; (T, G, heads, D), which may be the same memory. */
function rotate(from: Tensor, to: Tensor, cos: Tensor, sin: Tensor, direction: 1 | -1): void {
  const half = from.shape[3]! / 2;
  const [c, s] = [cos.view([-1, 1, 1, half]), sin.view([-1, 1, 1, half])];
  const [first, second] = [from.narrow(3, 0, half), from.narrow(3, half, half)];
  const turned = first.mul(c).sub_(second.mul(s), { alpha: direction });
  to.narrow(3, half, half).copy_(second.mul(c).add_(first.mul(s), { alpha: direction }));
  to.narrow(3, 0, half).copy_(turned);
}

/** Each byte's two values come from one table; the float32 between stays small by going through it in tiles. */
function dequantizeNf4Twin(
  [out, codes, absmax, table, scales, offset]: Nf4Inputs,
  { block }: { block: number },
): void {
  const { device } = out;
  const values = Float32Array.from(
    { length: 512 },
    (_, at) => NF4_VALUES[at % 2 ? (at >> 1) & 15 : at >> 5]!,
  );
  const pairs = fromArray(values, [256, 2], { device });
  const [flat, bytes] = [out.view([-1]), codes.view([-1])];
  const blocks = Math.ceil(flat.numel / 64);
  for (let start = 0; start < blocks; start += NF4_TILE_BLOCKS) {
    scope(() => {
      const count = Math.min(NF4_TILE_BLOCKS, blocks - start);
      const elements = Math.min(count * 64, flat.numel - start * 64);
      const numbers = Int32Array.from({ length: count }, (_, at) => (block + start + at) >> 8);
      const ofBlock = scales.indexSelect(0, fromArray(numbers, [count], { device }));
      const magnitude = table.indexSelect(0, absmax.narrow(0, start, count).to({ dtype: "int32" }));
      const factor = magnitude.mul_(ofBlock).add_(offset).view([count, 1]); // (blocks, 1)
      const packed = bytes.narrow(0, start * 32, Math.ceil(elements / 2)).to({ dtype: "int32" });
      const unpacked = pairs.indexSelect(0, packed).view([-1]).narrow(0, 0, elements); // (elements) float32
      const whole = elements - (elements % 64);
      const scaled = unpacked
        .narrow(0, 0, whole)
        .view([-1, 64])
        .mul_(factor.narrow(0, 0, whole / 64));
      flat.narrow(0, start * 64, whole).copy_(scaled.view([-1]));
      if (whole === elements) return;
      const rest = unpacked.narrow(0, whole, elements - whole).mul_(factor.select(0, count - 1));
      flat.narrow(0, start * 64 + whole, elements - whole).copy_(rest);
    });
  }
}

function widened(x: Tensor): Tensor {
  return x.to({ dtype: x.dtype === "float64" ? "float64" : "float32" });
}
