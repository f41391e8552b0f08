/** The measured speed of a CPU (calibration.ts), and the time of an op there, by its class and size. */
import type { OpForm, OpTrace, Product } from "./opCost.ts";

/** Milliseconds of a call by its size, in rising order of size. */
export interface Curve {
  sizes: number[];
  ms: number[];
}

/**
 * FLOPs per second of products (m, k) times (k, n), for m, k and n in `edges`. The order is by m, then by k,
 * then by n.
 */
export interface ProductRates {
  edges: number[];
  flopsPerSecond: number[];
}

export interface CpuSpeed {
  /** Rates by layout of the factors. */
  products: Record<Product["layout"], ProductRates>;
  /**
   * Times by class of op: curveKey. Sizes are elements. For attention, sizes are pairs of query and key, and
   * the key is attentionKey.
   */
  curves: Record<string, Curve>;
  /** Milliseconds of a call that launches nothing. */
  viewMs: number;
  /** Time of a copy that runs beside the computing, by bytes. */
  copies: Curve;
  /** Share of a copy's time that is taken from the computing. */
  copyShare: number;
  /** Why the measurement may be wrong. */
  doubt?: string | undefined;
}

/**
 * The class that stands for ops without a class of their own, by bytes: a sum of two float32 tensors into a
 * third.
 */
const BYTES_KEY = "add float32";
const BYTES_PER_ELEMENT = 12;

export function isCpuSpeed(speed: object): speed is CpuSpeed {
  return "curves" in speed;
}

export function curveKey(name: string, dtypes: string, strided: boolean): string {
  return `${name} ${dtypes}${strided ? " strided" : ""}`;
}

/** Returns the milliseconds of one call. */
export function cpuOpMs(op: OpTrace, speed: CpuSpeed): number {
  const { kind, bytes, stream, form } = op;
  if (kind === "none") return speed.viewMs;
  if (stream === "copy" || stream === "exposed") return curveMs(speed.copies, bytes);
  const bytesMs = curveMs(speed.curves[BYTES_KEY]!, bytes / BYTES_PER_ELEMENT);
  if (!form) return bytesMs;
  if (form.product) return Math.max(productMs(form.product, speed), bytesMs);
  const known = measuredMs(op, speed);
  if (!known) return form.strided ? bytesMs * stridedRatio(form.elements, speed) : bytesMs;
  return form.strided && !known.strided ? known.ms * stridedRatio(form.elements, speed) : known.ms;
}

/** Returns the measured time of an op's class: on tensors that lie like its own, or on others. */
export function measuredMs(
  { name, form }: OpTrace,
  speed: CpuSpeed,
): { ms: number; strided: boolean } | undefined {
  if (!form) return undefined;
  if (form.features !== undefined) return attentionMs(name, form, speed);
  for (const strided of [form.strided, !form.strided]) {
    const curve = curveOf(name, form.dtypes, strided, speed);
    if (curve) return { ms: curveMs(curve, form.elements), strided };
  }
  return undefined;
}

/** Features of the heads for which attention is measured. */
export const HEADS_FEATURES = [32, 128] as const;

export function attentionKey(name: string, dtypes: string, features: number): string {
  return `${curveKey(name, dtypes, false)} of ${features}`;
}

/**
 * Returns the time of attention. Each pair of query and key costs its softmax and something for each feature,
 * so the time lies on the line through the two measurements.
 */
function attentionMs(
  name: string,
  { dtypes, elements, features = 0 }: OpForm,
  { curves }: CpuSpeed,
): { ms: number; strided: boolean } | undefined {
  const [fewer, more] = HEADS_FEATURES;
  const [few, many] = HEADS_FEATURES.map((count) => curves[attentionKey(name, dtypes, count)]);
  if (!few || !many) return undefined;
  const fewMs = curveMs(few, elements);
  const ms = fewMs + ((curveMs(many, elements) - fewMs) * (features - fewer)) / (more - fewer);
  return { ms: Math.max(ms, (fewMs * features) / fewer / 2), strided: true };
}

/** Ops that cost as much as another op. */
const ALIKE: Readonly<Record<string, string>> = {
  ...{ clone: "copy_", cat: "copy_", stack: "copy_", contiguous: "copy_", _to_copy: "to" },
  ...{
    full: "zeros",
    ones: "zeros",
    zeros_like: "zeros",
    fill_: "zero_",
    sub: "add",
    rsub: "add",
    div: "mul",
    neg: "mul",
    clamp_min: "mul",
    maximum: "add",
  },
};

/** Returns the curve of an op, of its form in place or not, or of an op that costs as much. */
function curveOf(name: string, dtypes: string, strided: boolean, { curves }: CpuSpeed): Curve | undefined {
  const other = name.endsWith("_") ? name.slice(0, -1) : `${name}_`;
  const alike = ALIKE[name] ?? ALIKE[other];
  const known = [name, other, ...(alike ? [alike] : [])].find(
    (candidate) => curves[curveKey(candidate, dtypes, strided)],
  );
  return known === undefined ? undefined : curves[curveKey(known, dtypes, strided)];
}

/** Returns how much longer ops take on tensors whose rows lie apart. */
function stridedRatio(elements: number, { curves }: CpuSpeed): number {
  const strided = Object.keys(curves).filter((key) => key.startsWith("mul ") && key.endsWith(" strided"));
  const ratios = strided.map((key) => {
    const plain = curves[key.replace(/ strided$/, "")];
    return plain ? curveMs(curves[key]!, elements) / curveMs(plain, elements) : 1;
  });
  return Math.max(1, ...ratios);
}

/**
 * Interpolates between two sizes by a power of the size. Below the least size the time is constant; above the
 * largest it grows in proportion.
 */
export function curveMs({ sizes, ms }: Curve, size: number): number {
  const last = sizes.length - 1;
  if (size <= sizes[0]!) return ms[0]!;
  if (size >= sizes[last]!) return (ms[last]! * size) / sizes[last]!;
  const above = sizes.findIndex((known) => known > size);
  const part = Math.log(size / sizes[above - 1]!) / Math.log(sizes[above]! / sizes[above - 1]!);
  return ms[above - 1]! * (ms[above]! / ms[above - 1]!) ** part;
}

/**
 * Interpolates the rate between the eight products around this one, in logarithms of rate and sizes. Beyond
 * the edges the rate is the edge's. A size below the least edge takes as long as that edge, because the
 * weights of the other sizes are read anyway.
 */
export function productMs({ times, layout, ...sizes }: Product, { products }: CpuSpeed): number {
  const { edges, flopsPerSecond } = products[layout];
  const [m, k, n] = [sizes.m, sizes.k, sizes.n].map((size) => Math.max(size, edges[0]!)) as [
    number,
    number,
    number,
  ];
  const axes = [m, k, n].map((size) => between(size, edges));
  let logRate = 0;
  for (let corner = 0; corner < 8; corner++) {
    let [index, weight] = [0, 1];
    axes.forEach(({ below, part }, axis) => {
      const up = (corner >> axis) & 1;
      index = index * edges.length + below + up;
      weight *= up ? part : 1 - part;
    });
    if (weight > 0) logRate += weight * Math.log(flopsPerSecond[index]!);
  }
  return (1e3 * times * 2 * m * n * k) / Math.exp(logRate);
}

function between(size: number, edges: readonly number[]): { below: number; part: number } {
  const inside = Math.min(size, edges.at(-1)!);
  const above = Math.max(
    1,
    edges.findIndex((edge) => edge >= inside),
  );
  const below = above - 1;
  return { below, part: Math.log(inside / edges[below]!) / Math.log(edges[above]! / edges[below]!) };
}
