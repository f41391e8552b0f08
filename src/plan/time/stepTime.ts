/**
 * Predicts the time of a traced step. On a card every kernel takes the longer of its arithmetic and its
 * memory traffic. Transfers between host and card, and issuing the calls, run in parallel. Nothing else is
 * modelled: neither lower rates on small or odd shapes nor falling clocks. On a CPU its measurements replace
 * both (cpuSpeed.ts).
 */
import type { DType } from "../../torch/dtypes.ts";
import type { Card } from "./cards.ts";
import { type CpuSpeed, cpuOpMs, isCpuSpeed } from "./cpuSpeed.ts";
import { collectiveSeconds, sentBytes } from "./links/collectives.ts";
import { type Wiring, wiringOfGroup } from "./links/links.ts";
import type { OpTrace } from "./opCost.ts";

/**
 * Share of the peak rate that large matmuls reach. Source: "Maximum Achievable Matmul FLOPS" for bf16 of
 * stas00/ml-engineering, compute/accelerator: 271 of 312 TFLOP/s on A100, 795 of 989 on H100, 1745 of 2250 on
 * B200.
 */
const MATMUL_FRACTION = 0.8;
/**
 * Share of the memory bandwidth that elementwise kernels reach. Copies alone reach about 0.9 (an assumption,
 * not measured here).
 */
const MEMORY_FRACTION = 0.85;
/**
 * Share of the link's rate that copies of pinned memory reach: 12.8 of 15.75 GB/s over PCIe 3.0, 26 of 31.5
 * over 4.0.
 */
const LINK_FRACTION = 0.8;
/**
 * Milliseconds that every kernel costs after another one, for its start and its last blocks (an assumption,
 * not measured here).
 */
const KERNEL_MS = 0.002;
/**
 * Milliseconds of the host to issue a kernel, and for a call that issues none. bench/ops.ts measures calls. A
 * launch's own time is assumed.
 */
const LAUNCH_MS = 0.005;
const CALL_MS = 0.001;
/**
 * Shares of the matrix rate: cuDNN's attention on H100 at 8k to 16k tokens (arXiv:2407.08608), and the
 * memory-efficient kernel (assumed).
 */
const CUDNN_FRACTION = 0.55;
const EFFICIENT_FRACTION = 0.3;

/** Speeds of a device, and for one rank of several how ranks are joined. */
export type Speed = (CardSpeed | CpuSpeed) & { wiring?: Wiring | undefined };

/** Speeds that a card really reaches, derived from its data sheet. */
export interface CardSpeed {
  /** Rate of large matmuls. A dtype that is absent runs as float32. */
  flopsPerSecond: Partial<Record<DType, number>> & { float32: number };
  /** Rates of attention's kernels, as shares of the matmul rate. */
  attentionRatios: Record<"flash" | "cudnn" | "efficient", number>;
  memoryBytesPerSecond: number;
  linkBytesPerSecond: number;
  /** Milliseconds of every kernel in addition to its work. */
  kernelMs: number;
  /** Milliseconds of the host to issue a kernel. callMs: for any other call. */
  launchMs: number;
  callMs: number;
}

/**
 * Returns the milliseconds of a step, or of a phase of it. On a card this is the longest of three times: the
 * compute stream with all that it waits for, all copies in one direction, and issuing all calls. A card's
 * link carries both directions at once, and the host runs ahead of the card. On a CPU one thread makes all
 * copies, and uses its share of the cores that compute; ranks share the cores.
 * count: number of calls of the same cost.
 */
export function stepTimeMs(trace: readonly CountedTrace[], speed: Speed): number {
  return stretchesTimeMs([trace], speed);
}

/**
 * Returns the time of stretches one after the other, such as layers. A gather among ranks that was started
 * ahead is needed when its stretch ends, so a stretch takes the longer of its computing and its gathers.
 * Exposed gathers and other collectives are waited for.
 */
export function stretchesTimeMs(stretches: readonly (readonly CountedTrace[])[], speed: Speed): number {
  const sharers = isCpuSpeed(speed) ? (speed.wiring?.perMachine ?? 1) : 1; // ranks on the measured cores
  const totals = { waiting: 0, fetch: 0, store: 0, issue: 0 };
  for (const trace of stretches) {
    const queues = queuesMs(trace, speed);
    const { fetch, store, gather, exposedGather, waited } = queues;
    const computing = computingMs(queues, speed) * sharers;
    totals.waiting += Math.max(computing, gather - exposedGather) + exposedGather + waited;
    totals.fetch += fetch;
    totals.store += store;
    if (!isCpuSpeed(speed)) totals.issue += issueMs(trace, speed);
  }
  const { waiting, fetch, store, issue } = totals;
  const copies = isCpuSpeed(speed) ? (fetch + store) * sharers : Math.max(fetch, store);
  return Math.max(waiting, copies, issue);
}

/**
 * Returns the milliseconds that a step waits for the sum of gradients among ranks. What goes on beside the
 * last backward pass has the time of all layers but the first. trace: of the update, with the sum.
 */
export function sumTimeMs(
  trace: readonly CountedTrace[],
  { backwardMs, layers }: { backwardMs: number; layers: number },
  speed: Speed,
): number {
  const sent = trace.filter(({ collective }) => collective);
  const isBeside = ({ collective }: CountedTrace): boolean => collective?.isOverlapped ?? false;
  const rest = sent.filter((op) => !isBeside(op));
  const uncoveredMs = stepTimeMs(sent.filter(isBeside), speed) - backwardMs * (1 - 1 / layers);
  return Math.max(0, uncoveredMs) + stepTimeMs(rest, speed);
}

/** Returns the milliseconds of the computing with the copies that it waits for, or that take its cores. */
function computingMs({ compute, host, exposed, fetch, store }: Queues, speed: Speed): number {
  if (!isCpuSpeed(speed)) return compute + exposed;
  return compute + host + exposed + (fetch + store - exposed) * speed.copyShare;
}

/** Returns the bytes that a rank sends to others in these calls. */
export function linkBytesOf(trace: readonly CountedTrace[]): number {
  return trace.reduce((sum, { collective, bytes, count = 1 }) => {
    if (!collective || collective.isExposed) return sum;
    return sum + count * sentBytes(collective.kind, bytes, collective.ranks);
  }, 0);
}

export type CountedTrace = OpTrace & { count?: number };

/**
 * Returns the share of a card's copies in these phases that nothing waits for, as bench/gpu measures it;
 * undefined without copies.
 */
export function hiddenShare(
  phases: readonly (readonly CountedTrace[])[],
  speed: CardSpeed,
): number | undefined {
  let [copyMs, waitedMs] = [0, 0];
  for (const trace of phases) {
    const { compute, fetch, store } = queuesMs(trace, speed);
    copyMs += fetch + store;
    waitedMs += stepTimeMs(trace, speed) - Math.max(compute, issueMs(trace, speed));
  }
  return copyMs > 0 ? Math.max(0, 1 - waitedMs / copyMs) : undefined;
}

type Queue = "compute" | "fetch" | "store" | "exposed" | "host" | "gather" | "exposedGather" | "waited";
type Queues = Record<Queue, number>;

function queuesMs(trace: readonly CountedTrace[], speed: Speed): Queues {
  const queues: Queues = {
    ...{ compute: 0, fetch: 0, store: 0, exposed: 0, host: 0, gather: 0, exposedGather: 0, waited: 0 },
  };
  for (const op of trace) queues[queueOf(op)] += (op.count ?? 1) * opTimeMs(op, speed);
  return queues;
}

function queueOf({ stream, toHost, collective }: OpTrace): Queue {
  if (stream === "link") {
    if (collective?.kind !== "gather") return "waited";
    return collective.isExposed ? "exposedGather" : "gather";
  }
  if (stream !== "copy") return stream;
  return toHost ? "store" : "fetch";
}

/** Returns the milliseconds that the host needs to issue all calls to a card. */
function issueMs(trace: readonly CountedTrace[], { launchMs, callMs }: CardSpeed): number {
  const times = { kernels: 0, calls: 0 };
  for (const { kind, stream, count = 1 } of trace) {
    times[kind === "none" || stream === "host" ? "calls" : "kernels"] += count;
  }
  return times.kernels * launchMs + times.calls * callMs;
}

/** Returns the milliseconds of one op on its stream. */
export function opTimeMs(op: OpTrace, speed: Speed): number {
  if (op.collective) return collectiveMs(op.collective, op.bytes, speed);
  if (isCpuSpeed(speed)) return cpuOpMs(op, speed);
  const { name, kind, flops, bytes, dtype, stream } = op;
  if (kind === "none" || stream === "host") return 0;
  if (stream !== "compute") return speed.kernelMs + (1e3 * bytes) / speed.linkBytesPerSecond;
  const matmulRate = speed.flopsPerSecond[dtype] ?? speed.flopsPerSecond.float32;
  const flopsPerSecond = kind === "attention" ? matmulRate * attentionRatio(name, speed) : matmulRate;
  return speed.kernelMs + 1e3 * Math.max(flops / flopsPerSecond, bytes / speed.memoryBytesPerSecond);
}

function collectiveMs(
  { kind, ranks }: NonNullable<OpTrace["collective"]>,
  bytes: number,
  { wiring }: Speed,
): number {
  return wiring ? 1e3 * collectiveSeconds(kind, bytes, wiringOfGroup(wiring, ranks)) : 0;
}

function attentionRatio(name: string, { attentionRatios }: CardSpeed): number {
  if (name.includes("cudnn")) return attentionRatios.cudnn;
  return name.includes("efficient") ? attentionRatios.efficient : attentionRatios.flash;
}

/**
 * Returns the speeds that a card reaches, from its data sheet. Cards without bf16 are assumed to compute in
 * fp16, which has as many bytes.
 */
export function speedOf(card: Card): CardSpeed {
  const peaks = Object.entries(card.peakFlopsPerSecond);
  const reached = Object.fromEntries(peaks.map(([dtype, peak]) => [dtype, peak * MATMUL_FRACTION]));
  const half = reached.bfloat16 ?? reached.float16;
  return {
    flopsPerSecond: {
      ...reached,
      ...(half && { bfloat16: half }),
      float32: card.peakFlopsPerSecond.float32 * MATMUL_FRACTION,
    },
    attentionRatios: {
      flash: card.attentionFraction / MATMUL_FRACTION,
      cudnn: Math.max(card.attentionFraction, CUDNN_FRACTION) / MATMUL_FRACTION,
      efficient: EFFICIENT_FRACTION / MATMUL_FRACTION,
    },
    memoryBytesPerSecond: card.memoryBytesPerSecond * MEMORY_FRACTION,
    linkBytesPerSecond: card.linkBytesPerSecond * LINK_FRACTION,
    ...{ kernelMs: KERNEL_MS, launchMs: LAUNCH_MS, callMs: CALL_MS },
  };
}
