/**
 * Predicted time of a traced step. On a card every kernel takes the longer of its arithmetic and its memory
 * traffic; transfers between host and card, and the issuing of calls, run beside that. Nothing else is
 * modelled: neither rates on small or odd shapes nor clocks that fall. On a CPU what has been measured on it
 * stands for both (cpuSpeed.ts).
 */
import type { DType } from "../../torch/dtypes.ts";
import type { Card } from "./cards.ts";
import { type CpuSpeed, cpuOpMs, isCpuSpeed } from "./cpuSpeed.ts";
import type { OpTrace } from "./opCost.ts";

/**
 * Part of the peak rate that large matmuls reach. Source: "Maximum Achievable Matmul FLOPS" for bf16 of
 * stas00/ml-engineering, compute/accelerator: 271 of 312 TFLOP/s on A100, 795 of 989 on H100, 1745 of 2250 on
 * B200.
 */
const MATMUL_FRACTION = 0.8;
/**
 * Part of the memory bandwidth that elementwise kernels reach; copies alone reach about 0.9 (an assumption,
 * not measured here).
 */
const MEMORY_FRACTION = 0.85;
/**
 * Part of the link's rate that copies of pinned memory reach: 12.8 of 15.75 GB/s over PCIe 3.0, 26 of 31.5
 * over 4.0.
 */
const LINK_FRACTION = 0.8;
/**
 * Milliseconds of a kernel behind another, however little it does: its start and its last blocks (an
 * assumption, not measured here).
 */
const KERNEL_MS = 0.002;
/**
 * Milliseconds of the host to issue a kernel, and for a call that issues none. bench/ops.ts measures calls; a
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

export type Speed = CardSpeed | CpuSpeed;

/** Speeds that a card really reaches, derived from its data sheet. */
export interface CardSpeed {
  /** Rate of large matmuls; a dtype that is absent runs as float32. */
  flopsPerSecond: Partial<Record<DType, number>> & { float32: number };
  /** The rates of attention's kernels in parts of the matmuls'. */
  attentionRatios: Record<"flash" | "cudnn" | "efficient", number>;
  memoryBytesPerSecond: number;
  linkBytesPerSecond: number;
  /** Milliseconds of every kernel beside its work. */
  kernelMs: number;
  /** Milliseconds of the host for a kernel, and for another call. */
  launchMs: number;
  callMs: number;
}

/**
 * Milliseconds of a step, or a phase of it: the compute stream and the copies that it waits for, all copies
 * in one direction, or issuing it all, whichever is longest, for a card's link carries both directions at
 * once, and the host runs ahead of the card. On a CPU one thread makes all copies, and takes its part of the
 * cores that compute. count: calls of the same cost that an op stands for.
 */
export function stepTimeMs(trace: readonly CountedTrace[], speed: Speed): number {
  const { compute, fetch, store, exposed, host } = queuesMs(trace, speed);
  if (!isCpuSpeed(speed)) return Math.max(compute + exposed, fetch, store, issueMs(trace, speed));
  const copy = fetch + store;
  return Math.max(compute + host + exposed + (copy - exposed) * speed.copyShare, copy);
}

type CountedTrace = OpTrace & { count?: number };

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

type Queue = "compute" | "fetch" | "store" | "exposed" | "host";

function queuesMs(trace: readonly CountedTrace[], speed: Speed): Record<Queue, number> {
  const queues: Record<Queue, number> = { compute: 0, fetch: 0, store: 0, exposed: 0, host: 0 };
  for (const op of trace) queues[queueOf(op)] += (op.count ?? 1) * opTimeMs(op, speed);
  return queues;
}

function queueOf({ stream, toHost }: OpTrace): Queue {
  if (stream !== "copy") return stream;
  return toHost ? "store" : "fetch";
}

/** Returns the time that the host takes to issue all calls to a card. */
function issueMs(trace: readonly CountedTrace[], { launchMs, callMs }: CardSpeed): number {
  const times = { kernels: 0, calls: 0 };
  for (const { kind, stream, count = 1 } of trace) {
    times[kind === "none" || stream === "host" ? "calls" : "kernels"] += count;
  }
  return times.kernels * launchMs + times.calls * callMs;
}

/** Milliseconds of one op on its stream. */
export function opTimeMs(op: OpTrace, speed: Speed): number {
  if (isCpuSpeed(speed)) return cpuOpMs(op, speed);
  const { name, kind, flops, bytes, dtype, stream } = op;
  if (kind === "none" || stream === "host") return 0;
  if (stream !== "compute") return speed.kernelMs + (1e3 * bytes) / speed.linkBytesPerSecond;
  const matmulRate = speed.flopsPerSecond[dtype] ?? speed.flopsPerSecond.float32;
  const flopsPerSecond = kind === "attention" ? matmulRate * attentionRatio(name, speed) : matmulRate;
  return speed.kernelMs + 1e3 * Math.max(flops / flopsPerSecond, bytes / speed.memoryBytesPerSecond);
}

function attentionRatio(name: string, { attentionRatios }: CardSpeed): number {
  if (name.includes("cudnn")) return attentionRatios.cudnn;
  return name.includes("efficient") ? attentionRatios.efficient : attentionRatios.flash;
}

/**
 * Returns the speeds that a card reaches of its data sheet. Cards without bf16 are taken to compute in fp16,
 * which has as many bytes.
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
