/**
 * Measures for a few seconds how fast this machine's CPU is (probes.ts). The result is remembered for the
 * machine, its threads and libtorch. For each op the median of many calls counts.
 *
 * If other programs used much of the processor, the result is doubtful, and marked so. Then processor time
 * replaces clock time, its lower quartile counts, and a later plan measures again.
 */
import { availableParallelism, cpus } from "node:os";
import { getThreads, libtorchVersion, processorTimesMs } from "../../torch/device.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { type Busy, pathOf, watchMachine } from "./busyMachine.ts";
import type { CpuSpeed, Curve, ProductRates } from "./cpuSpeed.ts";
import { loopProbes } from "./loopProbes.ts";
import type { Product } from "./opCost.ts";
import {
  attentionProbes,
  type Compute,
  copyProbes,
  ELEMENTS,
  elementwiseProbes,
  FarMemory,
  type Hold,
  LAYOUTS,
  PRODUCT_EDGES,
  type Probe,
  type ProbeMemory,
  productProbes,
  viewProbe,
} from "./probes.ts";
import { knownIn, remembered } from "./remembered.ts";

/** Version of the measurements. A calibration of another version is made again. */
const VERSION = 14;
const CALIBRATION_MS = 5000;
/** Milliseconds for which a doubtful result is used without measuring again. */
const DOUBT_LASTS_MS = 10 * 60_000;
/**
 * Calls shorter than this many milliseconds are measured SHORT_CALLS at a time. In a step, too, such calls
 * follow each other.
 */
const SHORT_MS = 0.05;
const SHORT_CALLS = 4;
/**
 * Probes with calls shorter than this many milliseconds run QUICK_TIMES in each round, because they cost
 * almost nothing.
 */
const QUICK_MS = 2;
const QUICK_TIMES = 4;
/** Factor by which the time limit grows on a busy machine. */
const BUSY_TIMES = 3;
/**
 * The quantile that counts on a busy machine. In most calls there, threads spin while they wait for threads
 * without a core.
 */
const UNDISTURBED = 0.25;
/** Calls of at least this many milliseconds are measured in the first round only: one call tells enough. */
const LONG_MS = 20;

interface Known {
  speed: CpuSpeed;
  measuredAtMs: number;
}

const FILE = "calibration.json";

/** Returns a key of this machine as it computes now. */
export function keyOf(dtype: Compute): string {
  return [cpus()[0]?.model, getThreads(), libtorchVersion(), dtype, `v${VERSION}`].join(" ");
}

/**
 * Returns the speed of the CPU for a dtype if it was measured here without doubt; undefined otherwise.
 * Measures nothing.
 */
export function knownSpeed(dtype: Compute, folder?: string): CpuSpeed | undefined {
  const speed = knownIn<Known>(FILE, folder)[keyOf(dtype)]?.speed;
  return speed && !speed.doubt ? speed : undefined;
}

/** Returns the speed of the CPU for a dtype. Measures it unless a valid result is remembered. */
export function calibratedSpeed(dtype: Compute): CpuSpeed {
  const measure = (before: Known | undefined): Known => {
    const { wall, path, busy } = measureCpu(dtype);
    const measuredAtMs = Date.now();
    if (!busy) return { speed: wall, measuredAtMs };
    const speed = before ? lesserOf(before.speed, path) : path;
    return { speed: { ...speed, doubt: busy.reason }, measuredAtMs };
  };
  const valid = ({ speed, measuredAtMs }: Known): boolean =>
    !speed.doubt || Date.now() - measuredAtMs < DOUBT_LASTS_MS;
  return remembered(FILE, keyOf(dtype), measure, { valid }).value.speed;
}

/** Results by two clocks: wall is clock time, path is processor time, which other programs hardly change. */
export interface Measured {
  wall: CpuSpeed;
  path: CpuSpeed;
  busy: Busy | undefined;
}

/** How much to measure. */
interface Extent {
  budgetMs?: number;
  /** Sizes of products. */
  edges?: readonly number[];
  /** Sizes of elementwise ops. */
  elements?: readonly number[];
}

/**
 * Measures all probes, at least once each, until the budget of processor time is spent. The order changes in
 * each round. So each call finds the processor as it does in a step, where it follows other calls.
 */
export function measureCpu(dtype: Compute, { budgetMs = CALIBRATION_MS, ...given }: Extent = {}): Measured {
  const { edges, elements } = { edges: PRODUCT_EDGES, elements: ELEMENTS, ...given };
  const held: Tensor[] = [];
  const hold: Hold = (tensor) => {
    held.push(keep(tensor));
    return tensor;
  };
  const measured = scope(() => {
    const machine = watchMachine();
    const [startMs, start] = [performance.now(), processorTimesMs()[0]!];
    const sets = probeSets({ compute: dtype, elements, hold }, edges);
    const timed = Object.values(sets).flat();
    for (const probe of timed) probe.measure();
    const isOver = (): boolean =>
      processorTimesMs()[0]! - start >= budgetMs || performance.now() - startMs >= BUSY_TIMES * budgetMs;
    const random = lcg(1);
    for (let round = 0; round === 0 || !isOver(); round++) {
      const turns = timed.flatMap((probe) => probe.turns(round > 0));
      for (const probe of shuffled(turns, random)) {
        if (round > 0 && isOver()) break;
        probe.measure();
      }
    }
    const cores = availableParallelism();
    const copyShare = getThreads() >= cores ? 1 / cores : 0;
    return {
      wall: speedOf(sets, (probe) => probe.wallMs(), { edges, copyShare }),
      path: speedOf(sets, (probe) => probe.pathMs(), { edges, copyShare }),
      busy: machine.busy(),
    };
  });
  dispose(held);
  return measured;
}

/** Probes by the key of their op, or by their layout. */
type Sets = Record<string, Timed[]>;

function probeSets(given: Omit<ProbeMemory, "far" | "farWide">, edges: readonly number[]): Sets {
  const { compute, hold } = given;
  const far = new FarMemory(compute, hold);
  const farWide = compute === "float32" ? far : new FarMemory("float32", hold);
  const memory = { ...given, far, farWide };
  const curves = [
    ...elementwiseProbes(memory),
    ...loopProbes(memory),
    ...attentionProbes(compute),
    ["copies", copyProbes()] as const,
  ];
  const products = LAYOUTS.map((layout) => [layout, productProbes({ layout, edges }, memory)] as const);
  const sets = [...curves, ...products, ["view", [viewProbe()]] as const];
  return Object.fromEntries(sets.map(([name, probes]) => [name, probes.map((probe) => new Timed(probe))]));
}

/** A probe and the times of its calls. */
class Timed {
  readonly probe: Probe;
  readonly #wall: number[] = [];
  readonly #path: number[] = [];
  #leastMs = Number.POSITIVE_INFINITY;

  constructor(probe: Probe) {
    this.probe = probe;
  }

  measure(): void {
    const { prepare, call, times = 1 } = this.probe;
    const calls = this.#leastMs < SHORT_MS ? SHORT_CALLS : 1;
    scope(() => prepare?.());
    const { wallMs, pathMs } = timeOf(() => {
      for (let again = 0; again < calls; again++) scope(() => void call());
    });
    this.#wall.push(wallMs / calls / times);
    const isKnown = Number.isFinite(pathMs);
    if (isKnown) this.#path.push(pathMs / calls / times);
    this.#leastMs = Math.min(this.#leastMs, (isKnown ? pathMs : wallMs) / calls);
  }

  /** Returns this probe as often as it runs in a round. */
  turns(isLater: boolean): Timed[] {
    if (isLater && this.#leastMs >= LONG_MS) return [];
    return Array.from({ length: this.#leastMs < QUICK_MS ? QUICK_TIMES : 1 }, () => this);
  }

  wallMs(): number {
    return quantile(later(this.#wall), 0.5);
  }

  pathMs(): number {
    if (this.probe.isElsewhere || this.#path.length === 0) return quantile(later(this.#wall), 0);
    return quantile(later(this.#path), UNDISTURBED);
  }
}

/** Drops the first call, in which kernels are created, if there are other calls. */
function later(values: readonly number[]): readonly number[] {
  return values.length > 1 ? values.slice(1) : values;
}

function quantile(values: readonly number[], part: number): number {
  return [...values].sort((one, other) => one - other)[Math.floor(values.length * part)]!;
}

function shuffled<T>(values: T[], random: () => number): T[] {
  for (let last = values.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [values[last], values[other]] = [values[other]!, values[last]!];
  }
  return values;
}

/** Returns a generator of numbers in 0..1, the same each time. */
function lcg(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Times of a body, by two clocks. */
export interface Clocks {
  wallMs: number;
  /**
   * Milliseconds without waiting: the processor time of this thread, or the mean over all threads if that is
   * more. NaN if unknown.
   */
  pathMs: number;
}

export function timeOf(body: () => void): Clocks {
  const [startMs, before] = [performance.now(), processorTimesMs()];
  body();
  const after = processorTimesMs();
  const wallMs = performance.now() - startMs;
  return { wallMs, pathMs: pathOf(after.map((ms, thread) => ms - before[thread]!)) };
}

function speedOf(
  sets: Sets,
  msOf: (timed: Timed) => number,
  { edges, copyShare }: { edges: readonly number[]; copyShare: number },
): CpuSpeed {
  const ms = (name: string): number[] => sets[name]!.map(msOf);
  const curve = (name: string): Curve => ({
    sizes: sets[name]!.map(({ probe }) => probe.size),
    ms: ms(name),
  });
  const rates = (layout: string): ProductRates => ({
    edges: [...edges],
    flopsPerSecond: sets[layout]!.map((timed) => (1e3 * timed.probe.size) / msOf(timed)),
  });
  const others = new Set<string>([...LAYOUTS, "view", "copies"]);
  const names = Object.keys(sets).filter((name) => !others.has(name));
  return {
    products: Object.fromEntries(LAYOUTS.map((layout) => [layout, rates(layout)])) as CpuSpeed["products"],
    curves: Object.fromEntries(names.map((name) => [name, curve(name)])),
    viewMs: ms("view")[0]!,
    copies: curve("copies"),
    copyShare,
  };
}

/** Combines two calibrations of one machine: each number is taken from the less disturbed one. */
export function lesserOf(one: CpuSpeed, other: CpuSpeed): CpuSpeed {
  const curve = ({ sizes, ms }: Curve, { ms: others }: Curve): Curve => ({
    sizes,
    ms: ms.map((value, index) => Math.min(value, others[index]!)),
  });
  const rates = (layout: Product["layout"]): ProductRates => ({
    edges: one.products[layout].edges,
    flopsPerSecond: one.products[layout].flopsPerSecond.map((rate, index) =>
      Math.max(rate, other.products[layout].flopsPerSecond[index]!),
    ),
  });
  return {
    products: Object.fromEntries(LAYOUTS.map((layout) => [layout, rates(layout)])) as CpuSpeed["products"],
    curves: Object.fromEntries(
      Object.entries(one.curves).map(([key, known]) => [key, curve(known, other.curves[key]!)]),
    ),
    viewMs: Math.min(one.viewMs, other.viewMs),
    copies: curve(one.copies, other.copies),
    copyShare: one.copyShare,
  };
}
