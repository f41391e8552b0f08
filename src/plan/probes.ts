/** What a calibration measures: an op of every class that a step's time goes to, at several sizes. */
import { startCopy } from "../torch/copies.ts";
import { ones } from "../torch/create.ts";
import { type DType, dtypeBytes } from "../torch/dtypes.ts";
import {
  _scaledDotProductFlashAttentionForCpu as flash,
  _scaledDotProductFlashAttentionForCpuBackward as flashBackward,
} from "../torch/ops.gen.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { Product } from "./cost.ts";
import { curveKey } from "./cpuSpeed.ts";

export type Compute = "float32" | "bfloat16" | "float16";

/** One measurement; its tensors belong to the scope that it was made in. */
export interface Probe {
  size: number;
  call: () => unknown;
}

/** Sizes of elementwise ops: a handful, what one thread takes alone, what lies in a cache, and beyond every cache. */
const ELEMENTS = [2 ** 6, 2 ** 14, 2 ** 16, 2 ** 18, 2 ** 20, 2 ** 22];
const ROW = 1024;
/** Rows of a head are so long, in others' rows. */
const [HEAD, HEADS] = [64, 5];
/** Tables that codes are looked up in. */
const TABLE_NUMBERS = 256;

/** Has a tensor outlive the scope that it is made in. */
export type Hold = (tensor: Tensor) => Tensor;

/** Tensors of so many elements, (n / row, row); in place, values stay what they are. */
class Samples {
  readonly size: number;
  readonly shape: [number, number];
  readonly #compute: Compute;
  readonly #hold: Hold;
  readonly #made = new Map<string, Tensor>();
  readonly #windows = new Map<string, Tensor[]>();
  #turn = 0;

  constructor(size: number, compute: Compute, hold: Hold) {
    this.#hold = hold;
    this.size = size;
    this.shape = [Math.ceil(size / ROW), Math.min(size, ROW)];
    this.#compute = compute;
  }

  /** In the computing dtype, another one each time: what a step reads has left the nearer caches since it was written. */
  get x(): Tensor {
    return this.#next("x");
  }

  get y(): Tensor {
    return this.#next("y");
  }

  get wide(): Tensor {
    return this.of("wide", "float32");
  }

  get wideOther(): Tensor {
    return this.of("wideOther", "float32");
  }

  of(name: string, dtype: DType): Tensor {
    return this.#once(name, () => ones(this.shape, { dtype }));
  }

  /** Halves of heads, their rows apart by as much as they are long: (n / 320, 5, 64). */
  get apart(): Tensor {
    return this.#once("apart", () => {
      const tokens = Math.ceil(this.size / HEAD / HEADS);
      return ones([tokens, HEADS, 2 * HEAD], { dtype: this.#compute }).narrow(2, 0, HEAD);
    });
  }

  /** (n / 320, 1, 64) */
  get perToken(): Tensor {
    return this.#once("perToken", () => ones([this.apart.shape[0]!, 1, HEAD], { dtype: this.#compute }));
  }

  get codes(): Tensor {
    return this.#once("codes", () => ones([this.size], { dtype: "int32" }));
  }

  get table(): Tensor {
    return this.#once("table", () => ones([TABLE_NUMBERS]));
  }

  #next(name: string): Tensor {
    const windows = this.#windows.get(name) ?? windowsOf(this.shape, this.#compute, this.#hold);
    this.#windows.set(name, windows);
    this.#turn = (this.#turn + 1) % windows.length;
    return windows[this.#turn]!;
  }

  #once(name: string, make: () => Tensor): Tensor {
    const tensor = this.#made.get(name) ?? this.#hold(scope(make));
    this.#made.set(name, tensor);
    return tensor;
  }
}

/** So many bytes are no longer near when one comes back to them. */
const FAR_BYTES = 16 * 2 ** 20;
const MOST_WINDOWS = 64;

/** Matrices that lie one after the other, (rows, columns), or transposed ones. */
function windowsOf(
  shape: readonly [number, number],
  dtype: Compute,
  hold: Hold,
  isTransposed = false,
): Tensor[] {
  const [rows, columns] = isTransposed ? [shape[1], shape[0]] : shape;
  const bytes = rows * columns * dtypeBytes(dtype);
  const count = Math.min(MOST_WINDOWS, Math.max(1, Math.ceil(FAR_BYTES / bytes)));
  const whole = hold(scope(() => ones([count * rows, columns], { dtype })));
  return Array.from({ length: count }, (_, at) =>
    hold(
      scope(() => {
        const window = whole.narrow(0, at * rows, rows);
        return isTransposed ? window.t() : window;
      }),
    ),
  );
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
  ["copy_",  "x",   ({ x, y }) => x.copy_(y)],
  ["copy_",  "x,w", ({ x, wide }) => x.copy_(wide)],
  ["copy_",  "w",   ({ wide, wideOther }) => wide.copy_(wideOther)],
  ["copy_",  "w,x", ({ wide, x }) => wide.copy_(x)],
  ["to",     "x,w", ({ x }) => x.to({ dtype: "float32", copy: true })],
  ["to",     "uint8,int32", (samples) => samples.of("uint8", "uint8").to({ dtype: "int32" })],
  ["gelu",   "x",   ({ x }) => x.gelu()],
  ["sigmoid", "x",  ({ x }) => x.sigmoid()],
  ["native_layer_norm", "x", ({ x, shape }) => x.nativeLayerNorm([shape[1]], null, null, 1e-5)],
  ["sum",    "w",   ({ wide }) => wide.sumDim([-1], { keepdim: true })],
  ["amax",   "w",   ({ wide }) => wide.amax({ dim: [-1], keepdim: true })],
  ["sqrt_",  "w",   ({ wide }) => wide.sqrt_()],
  ["div_",   "w",   ({ wide, wideOther }) => wide.div_(wideOther)],
  ["lerp_",  "w",   ({ wide, wideOther }) => wide.lerp_(wideOther, 0.1)],
  ["addcmul_", "w", ({ wide, wideOther }) => wide.addcmul_(wideOther, wideOther, { value: 0 })],
  ["addcdiv_", "w", ({ wide, wideOther }) => wide.addcdiv_(wideOther, wideOther, { value: 0 })],
  ["zero_",  "x",   (samples) => samples.of("zeroed", samples.x.dtype).zero_()],
  ["zeros",  "x",   ({ size, x }) => ones([size], { dtype: x.dtype })],
  ["index_select", "w,int32", ({ table, codes }) => table.indexSelect(0, codes)],
  ["mul",    "x",   ({ apart, perToken }) => apart.mul(perToken), "strided"],
  ["add_",   "x",   ({ apart }) => apart.add_(apart, { alpha: 0 }), "strided"],
  ["copy_",  "x",   ({ apart }) => apart.contiguous(), "strided"],
  ["reshape", "x",  ({ apart }) => apart.contiguous(), "strided"],
];

/** Of every class of elementwise op, by its key. */
export function elementwiseProbes(compute: Compute, hold: Hold): Map<string, Probe[]> {
  const samples = ELEMENTS.map((size) => new Samples(size, compute, hold));
  const named = (dtypes: string): string =>
    [...new Set(dtypes.split(",").map((name) => ({ x: compute, w: "float32" })[name] ?? name))].join();
  const probes = new Map<string, Probe[]>();
  for (const [op, dtypes, call, strided] of ELEMENTWISE) {
    const key = curveKey(op, named(dtypes), strided !== undefined);
    if (probes.has(key)) continue;
    probes.set(
      key,
      samples.map((some) => ({ size: some.size, call: () => call(some) })),
    );
  }
  return probes;
}

/** Sizes of products: ranks, heads, and what is as good as large. */
export const PRODUCT_EDGES = [8, 16, 128, 512, 2048];
/** How the factors of each layout come out of contiguous tensors. */
export const LAYOUTS: readonly Product["layout"][] = ["a b", "a b'", "a' b"];

/** Products of every layout in the order of ProductRates; size: FLOPs. */
export function productProbes(
  compute: Compute,
  { layout, edges }: { layout: Product["layout"]; edges: readonly number[] },
  hold: Hold,
): Probe[] {
  const made = new Map<string, Tensor[]>();
  const factors = (rows: number, columns: number, isTransposed: boolean): Tensor[] => {
    const key = `${rows} ${columns} ${isTransposed}`;
    const windows = made.get(key) ?? windowsOf([rows, columns], compute, hold, isTransposed);
    made.set(key, windows);
    return windows;
  };
  return edges.flatMap((m) =>
    edges.flatMap((k) =>
      edges.map((n) => {
        const [a, b] = [factors(m, k, layout === "a' b"), factors(k, n, layout === "a b'")];
        let turn = 0;
        const call = (): Tensor => {
          turn += 1;
          return a[turn % a.length]!.mm(b[turn % b.length]!);
        };
        return { size: 2 * m * n * k, call };
      }),
    ),
  );
}

/** Of libtorch's own attention, forward and backward, by its key; size: FLOPs, as the trace counts them. */
export function attentionProbes(dtype: Compute): Map<string, Probe[]> {
  const forward: Probe[] = [];
  const backward: Probe[] = [];
  const [heads, features] = [4, 64];
  for (const tokens of [32, 256, 1024]) {
    const x = ones([1, heads, tokens, features], { dtype });
    const [out, sums] = flash(x, x, x, { isCausal: true });
    const flops = heads * features * tokens * (tokens + 1);
    forward.push({ size: 2 * flops, call: () => flash(x, x, x, { isCausal: true }) });
    backward.push({ size: 5 * flops, call: () => flashBackward(x, x, x, x, out, sums, 0, true) });
  }
  const name = "_scaled_dot_product_flash_attention_for_cpu";
  return new Map([
    [curveKey(name, attentionDtypes(dtype), false), forward],
    [curveKey(`${name}_backward`, attentionDtypes(dtype), false), backward],
  ]);
}

/** Its statistics are float32. */
function attentionDtypes(dtype: Compute): string {
  return dtype === "float32" ? dtype : `${dtype},float32`;
}

/** Copies beside the computing; size: bytes. */
export function copyProbes(): Probe[] {
  return [2 ** 12, 2 ** 20, 2 ** 25].map((size) => {
    const [from, to] = [ones([size], { dtype: "uint8" }), ones([size], { dtype: "uint8" })];
    return { size, call: () => startCopy(to, from).wait() };
  });
}

export function viewProbe(): Probe {
  const x = ones([64, 64]);
  return { size: 1, call: () => x.narrow(0, 1, 2) };
}
