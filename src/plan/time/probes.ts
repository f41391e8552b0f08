/**
 * The probes of a calibration: an op of every class that a step's time goes to, at several sizes, in the
 * state in which a step finds it. A step's activations have just been written; its weights and factors have
 * left every cache since they were used.
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
  /** How often a call does what is measured; once unless said. */
  times?: number;
  /** Comes before each call, untimed. */
  prepare?: () => void;
  call: () => unknown;
  /** Whether the work is done by a thread that takes no part in others: the clock alone shows it. */
  isElsewhere?: true;
}

/**
 * Sizes of elementwise ops: a handful, what one thread takes alone, what lies in a cache, and beyond every
 * cache.
 */
export const ELEMENTS: readonly number[] = [2 ** 6, 2 ** 14, 2 ** 16, 2 ** 18, 2 ** 20, 2 ** 22];
const ROW = 1024;
/** Rows of a head are so long, in others' rows. */
const [HEAD, HEADS] = [64, 5];
/** Tables that codes are looked up in. */
const TABLE_NUMBERS = 256;
const TABLE_CELLS = 2 ** 16;

/** Has a tensor outlive the scope that it is made in. */
export type Hold = (tensor: Tensor) => Tensor;

/** So many bytes have left every cache when one comes back to them. */
const FAR_BYTES = 64 * 2 ** 20;

/** Memory of ones, of which each time another part is handed out: what lies there is in no cache. */
export class FarMemory {
  readonly #whole: Tensor;
  #at = 0;

  constructor(dtype: DType, hold: Hold) {
    this.#whole = hold(scope(() => ones([FAR_BYTES / dtypeBytes(dtype)], { dtype })));
  }

  /** A view; whoever calls disposes it. */
  next(shape: readonly number[]): Tensor {
    const numel = shape.reduce((product, size) => product * size, 1);
    if (this.#at + numel > this.#whole.numel) this.#at = 0;
    const start = this.#at;
    this.#at += numel;
    return scope(() => this.#whole.narrow(0, start, numel).view(shape));
  }
}

/** Where probes have their tensors from. */
export interface ProbeMemory {
  compute: Compute;
  /** Sizes of elementwise ops. */
  elements: readonly number[];
  hold: Hold;
  /** In the computing dtype, and in float32. */
  far: FarMemory;
  farWide: FarMemory;
}

/** Tensors of so many elements, (n / row, row); in place, values stay what they are. */
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

  /** In the computing dtype. */
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

  /** In no cache; in the computing dtype, and in float32. */
  get far(): Tensor {
    return this.#memory.far.next(this.shape);
  }

  get farWide(): Tensor {
    return this.#memory.farWide.next(this.shape);
  }

  of(name: string, dtype: DType): Tensor {
    return this.once(name, () => ones(this.shape, { dtype }));
  }

  /** Halves of heads, their rows apart by as much as they are long: (n / 320, 5, 64). */
  get apart(): Tensor {
    return this.once("apart", () => {
      const tokens = Math.ceil(this.size / HEAD / HEADS);
      return ones([tokens, HEADS, 2 * HEAD], { dtype: this.#memory.compute }).narrow(2, 0, HEAD);
    });
  }

  /** (n / 320, 1, 64) */
  get perToken(): Tensor {
    return this.once("perToken", () =>
      ones([this.apart.shape[0]!, 1, HEAD], { dtype: this.#memory.compute }),
    );
  }

  get codes(): Tensor {
    return this.once("codes", () => ones([this.size], { dtype: "int32" }));
  }

  /** Numbers of all rows. */
  get rows(): Tensor {
    return this.once("rows", () => zeros([this.shape[0]], { dtype: "int64" }));
  }

  get cells(): Tensor {
    return this.once("cells", () => ones([TABLE_CELLS], { dtype: "uint8" }));
  }

  get table(): Tensor {
    return this.once("table", () => ones([TABLE_NUMBERS]));
  }

  /** Made the first time. */
  once(name: string, make: () => Tensor): Tensor {
    const tensor = this.#made.get(name) ?? this.#memory.hold(scope(make));
    this.#made.set(name, tensor);
    return tensor;
  }

  /** Writes what there is as it is: it was made just now, as activations are. */
  touch(): void {
    for (const tensor of this.#made.values()) tensor.fill_(tensor.dtype === "int64" ? 0 : 1);
  }
}

/** Classes by op and dtypes as the trace tells them; x: the computing dtype, w: float32. */
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
  ["copy_",  "w",   ({ wide, wideOther }) => wide.copy_(wideOther)], // of updates' tiles; where x is w, these come first
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

/** Each probe has samples of its own, so that what it touches is what it takes. */
export function sampled(samples: Samples, call: (samples: Samples) => unknown): Probe {
  return { size: samples.size, prepare: () => samples.touch(), call: () => call(samples) };
}

/** "x,w" with the dtypes that they stand for, each once. */
export function namedDtypes(dtypes: string, { compute }: Pick<ProbeMemory, "compute">): string {
  const named = dtypes.split(",").map((name) => ({ x: compute, w: "float32" })[name] ?? name);
  return [...new Set(named)].join();
}

/** Sizes of products: ranks, heads, and what is as good as large. */
export const PRODUCT_EDGES = [8, 16, 128, 512, 2048];
/**
 * A right factor with an edge up to here is a head's, or a LoRA factor that was cast: just written. Others
 * are weights.
 */
const NEAR_EDGE = 128;
/**
 * Bytes above which a tensor is in no core's cache when it is used again, since others have been written
 * meanwhile.
 */
const CACHE_BYTES = 2 ** 20;
/** Up to here, what is summed over is a rank: its products are added to what is there. */
const RANK_EDGE = 16;
/** How the factors of each layout come out of contiguous tensors. */
export const LAYOUTS: readonly Product["layout"][] = ["a b", "a b'", "a' b"];

/** Products of every layout in the order of ProductRates; size: FLOPs. */
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
  /** Writes it where it is near: it was made just now. */
  touch(): void;
}

/** Matrices that products take: of one role and shape the same one, but for those that lie in no cache. */
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

/** Its statistics are float32. */
function attentionDtypes(dtype: Compute): string {
  return dtype === "float32" ? dtype : `${dtype},float32`;
}

/** By bytes how many copies are under way at a time, as the tensors of a layer or of a tile are. */
const COPIES = new Map([
  [2 ** 12, 8],
  [2 ** 16, 8],
  [2 ** 20, 4],
  [2 ** 25, 1],
]);

/** Copies beside the computing, one after the other; size: bytes of one. */
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

/** Views of every kind that steps make. */
export function viewProbe(): Probe {
  const x = ones([64, 64]);
  return { size: 1, times: 3, call: () => x.narrow(0, 1, 2).view([64, 2]).t() };
}
