/**
 * The probes of a calibration: an op of every class that takes time in a step, at several sizes, in the state
 * in which a step finds it. A step's activations have just been written. Its weights and factors have left
 * every cache since their last use.
 */
import { startCopy } from "../../torch/copies.ts";
import { ones, zeros } from "../../torch/create.ts";
import { type DType, dtypeBytes } from "../../torch/dtypes.ts";
import {
  _scaledDotProductFlashAttentionForCpu as flash,
  _scaledDotProductFlashAttentionForCpuBackward as flashBackward,
} from "../../torch/ops.gen.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { attentionKey, curveKey, HEADS_FEATURES } from "./cpuSpeed.ts";
import type { Product } from "./opCost.ts";

export type Compute = "float32" | "bfloat16" | "float16";

/** One measurement. */
export interface Probe {
  size: number;
  /** How often a call repeats what is measured; default: once. */
  times?: number;
  /** Runs before each call, untimed. */
  prepare?: () => void;
  call: () => unknown;
  /**
   * Present if the work is done by a thread that takes no part in other work. Only the clock shows its time.
   */
  isElsewhere?: true;
}

/**
 * Sizes of elementwise ops: a handful, as much as one thread computes alone, a size within a cache, and one
 * beyond every cache.
 */
export const ELEMENTS: readonly number[] = [2 ** 6, 2 ** 14, 2 ** 16, 2 ** 18, 2 ** 20, 2 ** 22];
const ROW = 1024;
/** Elements of half a head, and heads per token. */
const [HEAD, HEADS] = [64, 5];
/** Numbers in a table in which codes are looked up. */
const TABLE_NUMBERS = 256;
const TABLE_CELLS = 2 ** 16;

/** Keeps a tensor alive beyond the scope that creates it. */
export type Hold = (tensor: Tensor) => Tensor;

/** Bytes of far memory: when the probes return to its start, that start has left every cache. */
const FAR_BYTES = 64 * 2 ** 20;

/** Memory of ones. Each call hands out another part, so that the part is in no cache. */
export class FarMemory {
  readonly #whole: Tensor;
  #at = 0;

  constructor(dtype: DType, hold: Hold) {
    this.#whole = hold(scope(() => ones([FAR_BYTES / dtypeBytes(dtype)], { dtype })));
  }

  /** Returns a view, which the caller must dispose. */
  next(shape: readonly number[]): Tensor {
    const numel = shape.reduce((product, size) => product * size, 1);
    if (this.#at + numel > this.#whole.numel) this.#at = 0;
    const start = this.#at;
    this.#at += numel;
    return scope(() => this.#whole.narrow(0, start, numel).view(shape));
  }
}

/** Sources of the probes' tensors. */
export interface ProbeMemory {
  compute: Compute;
  /** Sizes of elementwise ops. */
  elements: readonly number[];
  hold: Hold;
  /** Memory in no cache, in the computing dtype. farWide: in float32. */
  far: FarMemory;
  farWide: FarMemory;
}

/** Tensors with this number of elements, (n / row, row). Ops in place leave their values unchanged. */
export class Samples {
  readonly size: number;
  readonly shape: [number, number];
  readonly #memory: ProbeMemory;
  readonly #made = new Map<string, Tensor>();

  constructor(size: number, memory: ProbeMemory) {
    this.size = size;
    this.shape = [Math.ceil(size / ROW), Math.min(size, ROW)];
    this.#memory = memory;
  }

  /** A tensor in the computing dtype. */
  get x(): Tensor {
    return this.of("x", this.#memory.compute);
  }

  get y(): Tensor {
    return this.of("y", this.#memory.compute);
  }

  get z(): Tensor {
    return this.of("z", this.#memory.compute);
  }

  get wide(): Tensor {
    return this.of("wide", "float32");
  }

  get wideOther(): Tensor {
    return this.of("wideOther", "float32");
  }

  /** A tensor in no cache, in the computing dtype. farWide: in float32. */
  get far(): Tensor {
    return this.#memory.far.next(this.shape);
  }

  get farWide(): Tensor {
    return this.#memory.farWide.next(this.shape);
  }

  of(name: string, dtype: DType): Tensor {
    return this.once(name, () => ones(this.shape, { dtype }));
  }

  /** Halves of heads. Their rows are as far apart as they are long: (n / 320, 5, 64). */
  get apart(): Tensor {
    return this.once("apart", () => {
      const tokens = Math.ceil(this.size / HEAD / HEADS);
      return ones([tokens, HEADS, 2 * HEAD], { dtype: this.#memory.compute }).narrow(2, 0, HEAD);
    });
  }

  /** One row per token: (n / 320, 1, 64). */
  get perToken(): Tensor {
    return this.once("perToken", () =>
      ones([this.apart.shape[0]!, 1, HEAD], { dtype: this.#memory.compute }),
    );
  }

  get codes(): Tensor {
    return this.once("codes", () => ones([this.size], { dtype: "int32" }));
  }

  /** Indexes of the rows. */
  get rows(): Tensor {
    return this.once("rows", () => zeros([this.shape[0]], { dtype: "int64" }));
  }

  get cells(): Tensor {
    return this.once("cells", () => ones([TABLE_CELLS], { dtype: "uint8" }));
  }

  get table(): Tensor {
    return this.once("table", () => ones([TABLE_NUMBERS]));
  }

  /** Returns a tensor that is created the first time. */
  once(name: string, make: () => Tensor): Tensor {
    const tensor = this.#made.get(name) ?? this.#memory.hold(scope(make));
    this.#made.set(name, tensor);
    return tensor;
  }

  /**
   * Writes all tensors without changing their values, because activations in a step have just been written.
   */
  touch(): void {
    for (const tensor of this.#made.values()) tensor.fill_(tensor.dtype === "int64" ? 0 : 1);
  }
}

/** Classes by op and by dtypes as the trace names them. x: the computing dtype, w: float32. */
type Elementwise = [op: string, dtypes: string, call: (samples: Samples) => unknown, strided?: "strided"];
// biome-ignore format: a class a line
const ELEMENTWISE: readonly Elementwise[] = [
  ["add",    "w",   ({ wide, wideOther }) => wide.add(wideOther)],
  ["add_",   "w",   ({ wide, wideOther }) => wide.add_(wideOther, { alpha: 0 })],
  ["add_",   "w,x", ({ wide, x }) => wide.add_(x, { alpha: 0 })],
  ["add_",   "x",   ({ x, y }) => x.add_(y, { alpha: 0 })],
  ["sub",    "w",   ({ wide, wideOther }) => wide.sub(wideOther)],
  ["mul",    "x",   ({ x, y }) => x.mul(y)],
  ["mul_",   "x",   ({ x, y }) => x.mul_(y)],
  ["mul",    "w",   ({ wide, wideOther }) => wide.mul(wideOther)],
  ["mul_",   "w",   ({ wide, wideOther }) => wide.mul_(wideOther)],
  ["copy_",  "w",   ({ wide, wideOther }) => wide.copy_(wideOther)], // tiles of an update; if x is w, these come first
  ["copy_",  "x",   ({ far: to, far: from }) => to.copy_(from)],
  ["clone",  "x",   ({ far }) => far.clone()],
  ["copy_",  "x,w", ({ x, wide }) => x.copy_(wide)],
  ["copy_",  "w,x", ({ wide, x }) => wide.copy_(x)],
  ["to",     "x,w", ({ x }) => x.to({ dtype: "float32", copy: true })],
  ["to",     "w,x", ({ farWide, x }) => farWide.to({ dtype: x.dtype, copy: true })],
  ["to",     "uint8,int32", (samples) => samples.of("uint8", "uint8").to({ dtype: "int32" })],
  ["gelu",   "x",   ({ x }) => x.gelu()],
  ["sigmoid", "x",  ({ x }) => x.sigmoid()],
  ["native_layer_norm", "x", ({ x, shape }) => x.nativeLayerNorm([shape[1]], null, null, 1e-5)],
  ["zero_",  "w",   ({ wide }) => wide.zero_()],
  ["zeros",  "w",   ({ size }) => zeros([size])],
  ["linalg_vector_norm", "w", ({ wide }) => wide.linalgVectorNorm()],
  ["index_select", "x,int64", ({ x, rows }) => x.indexSelect(0, rows)],
  ["sum",    "w",   ({ wide }) => wide.sumDim([-1], { keepdim: true })],
  ["amax",   "w",   ({ wide }) => wide.amax({ dim: [-1], keepdim: true })],
  ["amin",   "w",   ({ wide }) => wide.amin({ dim: [-1], keepdim: true })],
  ["bitwise_right_shift", "int32", ({ codes }) => codes.bitwiseRightShift(16)],
  ["add_",   "int32", ({ codes }) => codes.add_(0)],
  ["gt",     "w,bool", ({ wide, wideOther }) => wide.gt(wideOther)],
  ["index_select", "uint8,int32", ({ cells, codes }) => cells.indexSelect(0, codes)],
  ["add_",   "uint8", (samples) => samples.of("uint8", "uint8").add_(samples.of("one", "uint8"), { alpha: 0 })],
  ["copy_",  "uint8", (samples) => samples.of("uint8", "uint8").copy_(samples.of("one", "uint8"))],
  ["sqrt_",  "w",   ({ wide }) => wide.sqrt_()],
  ["div_",   "w",   ({ wide, wideOther }) => wide.div_(wideOther)],
  ["lerp_",  "w",   ({ wide, wideOther }) => wide.lerp_(wideOther, 0.1)],
  ["addcmul_", "w", ({ wide, wideOther }) => wide.addcmul_(wideOther, wideOther, { value: 0 })],
  ["addcdiv_", "w", ({ wide, wideOther }) => wide.addcdiv_(wideOther, wideOther, { value: 0 })],
  ["zero_",  "x",   (samples) => samples.of("zeroed", samples.x.dtype).zero_()],
  ["zeros",  "x",   ({ size, x }) => zeros([size], { dtype: x.dtype })],
  ["index_select", "w,int32", ({ table, codes }) => table.indexSelect(0, codes)],
  ["mul",    "x",   ({ apart, perToken }) => apart.mul(perToken), "strided"],
  ["add_",   "x",   ({ apart }) => apart.add_(apart, { alpha: 0 }), "strided"],
  ["copy_",  "x",   ({ apart }) => apart.contiguous(), "strided"],
  ["reshape", "x",  ({ apart }) => apart.contiguous(), "strided"],
];

/** Returns probes of every class of elementwise op, by its key. */
export function elementwiseProbes(memory: ProbeMemory): Map<string, Probe[]> {
  const probes = new Map<string, Probe[]>();
  for (const [op, dtypes, call, strided] of ELEMENTWISE) {
    const key = curveKey(op, namedDtypes(dtypes, memory), strided !== undefined);
    if (probes.has(key)) continue;
    probes.set(
      key,
      memory.elements.map((size) => sampled(new Samples(size, memory), call)),
    );
  }
  return probes;
}

/** Returns a probe with samples of its own, so that it touches only the tensors that it uses. */
export function sampled(samples: Samples, call: (samples: Samples) => unknown): Probe {
  return { size: samples.size, prepare: () => samples.touch(), call: () => call(samples) };
}

/** Replaces the letters in "x,w" by their dtypes, each dtype once. */
export function namedDtypes(dtypes: string, { compute }: Pick<ProbeMemory, "compute">): string {
  const named = dtypes.split(",").map((name) => ({ x: compute, w: "float32" })[name] ?? name);
  return [...new Set(named)].join();
}

/** Sizes of products: ranks, heads, and sizes that count as large. */
export const PRODUCT_EDGES = [8, 16, 128, 512, 2048];
/**
 * A right factor with an edge up to this size has just been written: it is a head's, or a LoRA factor that
 * was cast. Other right factors are weights.
 */
const NEAR_EDGE = 128;
/**
 * Bytes above which a tensor has left every core's cache before its next use, because other tensors have been
 * written meanwhile.
 */
const CACHE_BYTES = 2 ** 20;
/** Up to this size the contracted dim is a rank, and the product is added to an existing matrix. */
const RANK_EDGE = 16;
/** How the factors of each layout are made from contiguous tensors. */
export const LAYOUTS: readonly Product["layout"][] = ["a b", "a b'", "a' b"];

/** Returns probes of products of a layout, in the order of ProductRates; size: FLOPs. */
export function productProbes(
  { layout, edges }: { layout: Product["layout"]; edges: readonly number[] },
  memory: ProbeMemory,
): Probe[] {
  const factors = new Factors(memory);
  const [isLeftTurned, isRightTurned] = [layout === "a' b", layout === "a b'"];
  const probeOf = (m: number, k: number, n: number): Probe => {
    const isWeight = !isLeftTurned && Math.min(k, n) > NEAR_EDGE;
    const left = factors.of("left", isLeftTurned ? [k, m] : [m, k]);
    const right = factors.of("right", isRightTurned ? [n, k] : [k, n], isWeight);
    const into = k <= RANK_EDGE ? factors.of("into", [m, n]) : undefined;
    const call = (): Tensor => {
      const [a, b] = [
        isLeftTurned ? left.get().t() : left.get(),
        isRightTurned ? right.get().t() : right.get(),
      ];
      return into ? into.get().addmm_(a, b, { alpha: 0.5 }) : a.mm(b);
    };
    const prepare = (): void => {
      for (const factor of [left, right, into]) factor?.touch();
    };
    return { size: 2 * m * n * k, prepare, call };
  };
  return edges.flatMap((m) => edges.flatMap((k) => edges.map((n) => probeOf(m, k, n))));
}

interface Factor {
  get(): Tensor;
  /** Writes the factor if it is near, because in a step it has just been written. */
  touch(): void;
}

/**
 * Matrices for products. Factors of one role and shape share a matrix, except those that must be in no cache.
 */
class Factors {
  readonly #memory: ProbeMemory;
  readonly #made = new Map<string, Tensor>();

  constructor(memory: ProbeMemory) {
    this.#memory = memory;
  }

  of(role: string, shape: [number, number], isFar = false): Factor {
    const { compute: dtype, hold, far } = this.#memory;
    if (isFar || shape[0] * shape[1] * dtypeBytes(dtype) > CACHE_BYTES)
      return { get: () => far.next(shape), touch: () => undefined };
    const key = `${role} ${shape}`;
    const tensor = this.#made.get(key) ?? hold(scope(() => zeros(shape, { dtype })));
    this.#made.set(key, tensor);
    return { get: () => tensor, touch: () => void tensor.zero_() };
  }
}

/** Returns probes of libtorch's own attention, forward and backward, by key; size: pairs of query and key. */
export function attentionProbes(dtype: Compute): Map<string, Probe[]> {
  const name = "_scaled_dot_product_flash_attention_for_cpu";
  const probes = new Map<string, Probe[]>();
  for (const features of HEADS_FEATURES) {
    const [forward, backward]: [Probe[], Probe[]] = [[], []];
    for (const tokens of [32, 256, 1024]) {
      const x = ones([1, HEADS_OF_ATTENTION, tokens, features], { dtype });
      const [out, sums] = flash(x, x, x, {});
      const size = HEADS_OF_ATTENTION * tokens ** 2;
      forward.push({ size, call: () => flash(x, x, x, {}) });
      backward.push({ size, call: () => flashBackward(x, x, x, x, out, sums, 0, false) });
    }
    probes.set(attentionKey(name, attentionDtypes(dtype), features), forward);
    probes.set(attentionKey(`${name}_backward`, attentionDtypes(dtype), features), backward);
  }
  return probes;
}

const HEADS_OF_ATTENTION = 4;

/** Returns the dtypes of attention's tensors. Its statistics are float32. */
function attentionDtypes(dtype: Compute): string {
  return dtype === "float32" ? dtype : `${dtype},float32`;
}

/** Number of simultaneous copies by bytes, as for the tensors of a layer or of a tile. */
const COPIES = new Map([
  [2 ** 12, 8],
  [2 ** 16, 8],
  [2 ** 20, 4],
  [2 ** 25, 1],
]);

/** Returns probes of copies that run beside the computing; size: bytes of one copy. */
export function copyProbes(): Probe[] {
  return [...COPIES].map(([size, times]) => {
    const pairs = Array.from({ length: times }, () => [0, 1].map(() => ones([size], { dtype: "uint8" }))) as [
      Tensor,
      Tensor,
    ][];
    const call = (): void => {
      for (const copy of pairs.map(([from, to]) => startCopy(to, from))) copy.wait();
    };
    return { size, times, call, isElsewhere: true };
  });
}

/** Returns a probe of the kinds of views that steps make. */
export function viewProbe(): Probe {
  const x = ones([64, 64]);
  return { size: 1, times: 3, call: () => x.narrow(0, 1, 2).view([64, 2]).t() };
}
