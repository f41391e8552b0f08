/**
 * How fast this machine's CPU is, by a few seconds of measuring (probes.ts), remembered for the machine, its threads and libtorch. Of each
 * op the least of many calls counts, for other programs only ever take time away; where they took much, the result is doubtful: it is
 * told so, time of the processor stands for the clock's, and a later plan measures again.
 */
import { availableParallelism, cpus } from "node:os";
import { getThreads, libtorchVersion, threadProcessorMs } from "../torch/device.ts";
import { dispose, keep, scope, type Tensor } from "../torch/tensor.ts";
import { type Busy, watchMachine } from "./busyMachine.ts";
import type { Product } from "./cost.ts";
import type { CpuSpeed, Curve, ProductRates } from "./cpuSpeed.ts";
import { remembered } from "./measurements.ts";
import {
  attentionProbes,
  type Compute,
  copyProbes,
  elementwiseProbes,
  type Hold,
  LAYOUTS,
  PRODUCT_EDGES,
  type Probe,
  productProbes,
  viewProbe,
} from "./probes.ts";

/** Of what is measured: another one is measured anew. */
const VERSION = 5;
const CALIBRATION_MS = 5000;
/** So long a doubtful result is used without measuring again. */
const DOUBT_LASTS_MS = 10 * 60_000;
/** Shorter calls are measured several at a time. */
const SHORT_MS = 0.05;
const SHORT_CALLS = 10;
/** Quicker ones are measured so many times in a round, for they take next to nothing of it. */
const QUICK_MS = 2;
const QUICK_TIMES = 4;
/** A busy machine is given so many times as long. */
const BUSY_TIMES = 3;
/** Calls that long are measured once where time is short: that a kernel was made does not show in them. */
const LONG_MS = 20;

interface Known {
  speed: CpuSpeed;
  measuredAtMs: number;
}

/** The speed of the CPU for a dtype, from the last time that it was measured here. */
export function calibratedSpeed(dtype: Compute): CpuSpeed {
  const key = [cpus()[0]?.model, getThreads(), libtorchVersion(), dtype, `v${VERSION}`].join(" ");
  const measure = (before: Known | undefined): Known => {
    const { wall, path, busy } = measureCpu(dtype);
    const measuredAtMs = Date.now();
    if (!busy) return { speed: wall, measuredAtMs };
    const speed = before ? lesserOf(before.speed, path) : path;
    return { speed: { ...speed, doubt: busy.reason }, measuredAtMs };
  };
  const valid = ({ speed, measuredAtMs }: Known): boolean =>
    !speed.doubt || Date.now() - measuredAtMs < DOUBT_LASTS_MS;
  return remembered("calibration.json", key, measure, { valid }).value.speed;
}

/** By each of the clocks; other programs hardly change the latter two. */
export interface Measured {
  wall: CpuSpeed;
  path: CpuSpeed;
  processor: CpuSpeed;
  busy: Busy | undefined;
}

/** Measures all probes by turns until so much time of the processor is spent on them, twice at least but for long ones. */
export function measureCpu(
  dtype: Compute,
  { budgetMs = CALIBRATION_MS, edges = PRODUCT_EDGES }: { budgetMs?: number; edges?: readonly number[] } = {},
): Measured {
  const held: Tensor[] = [];
  const hold: Hold = (tensor) => {
    held.push(keep(tensor));
    return tensor;
  };
  const measured = scope(() => {
    const machine = watchMachine();
    const endMs = performance.now() + BUSY_TIMES * budgetMs;
    const sets = probeSets(dtype, edges, hold);
    const timed = Object.values(sets).flat();
    const spentMs = (): number => timed.reduce((sum, probe) => sum + probe.spentMs, 0);
    do {
      for (const probe of timed) {
        if (probe.pathMs >= LONG_MS && spentMs() >= budgetMs / 2) continue;
        for (let again = probe.pathMs < QUICK_MS ? QUICK_TIMES : 1; again > 0; again--) probe.measure();
      }
    } while (spentMs() < budgetMs && performance.now() < endMs);
    const cores = availableParallelism();
    const copyShare = getThreads() >= cores ? 1 / cores : 0;
    return {
      wall: speedOf(sets, ({ wallMs }) => wallMs, { edges, copyShare }),
      path: speedOf(sets, ({ pathMs }) => pathMs, { edges, copyShare }),
      processor: speedOf(sets, ({ processorMs }) => processorMs, { edges, copyShare: 1 }),
      busy: machine.busy(),
    };
  });
  dispose(held);
  return measured;
}

/** Probes by what they are of. */
type Sets = Record<string, Timed[]>;

function probeSets(dtype: Compute, edges: readonly number[], hold: Hold): Sets {
  const curves = [
    ...elementwiseProbes(dtype, hold),
    ...attentionProbes(dtype),
    ["copies", copyProbes()] as const,
  ];
  const products = LAYOUTS.map((layout) => [layout, productProbes(dtype, { layout, edges }, hold)] as const);
  const sets = [...curves, ...products, ["view", [viewProbe()]] as const];
  return Object.fromEntries(sets.map(([name, probes]) => [name, probes.map((probe) => new Timed(probe))]));
}

/** A probe and the least that it took. */
class Timed {
  wallMs = Number.POSITIVE_INFINITY;
  pathMs = Number.POSITIVE_INFINITY;
  processorMs = Number.POSITIVE_INFINITY;
  spentMs = 0;
  readonly probe: Probe;

  constructor(probe: Probe) {
    this.probe = probe;
    this.measure(); // the first time kernels are made: it counts for long calls alone
  }

  measure(): void {
    const calls = this.pathMs < SHORT_MS ? SHORT_CALLS : 1;
    const clocks = timeOf(() => this.#run(calls));
    this.spentMs += clocks.pathMs;
    this.wallMs = Math.min(this.wallMs, clocks.wallMs / calls);
    this.pathMs = Math.min(this.pathMs, clocks.pathMs / calls);
    this.processorMs = Math.min(this.processorMs, clocks.processorMs / calls);
  }

  #run(calls: number): void {
    for (let call = 0; call < calls; call++) scope(() => void this.probe.call());
  }
}

/** What a body takes. */
export interface Clocks {
  wallMs: number;
  /** Of the processor by the thread that works the longest: what the clock would show if no thread waited. */
  pathMs: number;
  /** Of the processor by all threads. */
  processorMs: number;
}

export function timeOf(body: () => void): Clocks {
  const [startMs, start, startOwnMs] = [performance.now(), process.cpuUsage(), threadProcessorMs()];
  body();
  const ownMs = threadProcessorMs() - startOwnMs;
  const { user, system } = process.cpuUsage(start);
  const processorMs = (user + system) / 1000;
  const others = Math.max(1, getThreads() - 1);
  const pathMs = Math.max(ownMs, (processorMs - ownMs) / others);
  return { wallMs: performance.now() - startMs, pathMs, processorMs };
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

/** Of two measurements of the same machine what was disturbed less, number by number. */
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
