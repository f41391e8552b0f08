/**
 * One configuration, tried out without data: the trainer's own parts (weights, factors, optimizer, one
 * micro-batch, one update) run on the meta device, with every allocation and every call of an operator
 * written down. Nothing here knows a formula for memory.
 */

import type { ModelConfig } from "../../models/family.ts";
import type { Lora } from "../../models/lora.ts";
import type { Place } from "../../models/places.ts";
import type { BasePart, Bases } from "../../models/precision/bases.ts";
import type { Model } from "../../models/weights.ts";
import { withPartsUpTo } from "../../nn/plora.ts";
import type { StepPhase } from "../../step/phases.ts";
import type { Policy } from "../../step/policy.ts";
import { trainStep } from "../../step/step.ts";
import {
  type AllocationLog,
  CATEGORIES,
  type Category,
  type PlanTarget,
  planningFor,
} from "../../torch/device.ts";
import { abridged, type CountedCall, type Trace, traced } from "../../torch/trace.ts";
import { blockBytes } from "../memory/cachingAllocator.ts";
import { type Replay, replayAllocations } from "../memory/reservedPeak.ts";
import type { Card } from "../time/cards.ts";
import { type OpTrace, traceOp } from "../time/opCost.ts";
import { type Speed, stepTimeMs } from "../time/stepTime.ts";
import {
  type BatchShape,
  type ExactShape,
  layoutFor,
  mostPartsOf,
  plannedBatch,
  rowsOfSamples,
} from "./batchShapes.ts";
import { CommonParts, type ModelPart, type TakeTrace } from "./sharedParts.ts";
import { mappedPartsOf } from "./storedParts.ts";

export interface LoraShape {
  rank: number;
  /** Ranks of the modules whose rank differs, by module name. */
  ranks?: Readonly<Record<string, number>>;
  dropout: number;
  /** A regular expression over the names of modules. */
  targets: string;
}

/**
 * One thing to try: a model in its precisions, factors, a micro-batch and a policy, on this machine's CPU or
 * on a card.
 */
export interface Configuration extends Bases {
  model: ModelConfig;
  dtype: "float32" | "bfloat16" | "float16";
  lora: LoraShape;
  batch: BatchShape | ExactShape;
  policy: Policy;
  target: "cpu" | Card;
  /**
   * Parts that the checkpoint stores in fewer bits. Nothing can be folded into them, and on the host they are
   * the mapped file.
   */
  stored?: Bases;
  /**
   * Whether the rest of what lies on the host is the mapped file and no memory of the host pool: where it has
   * the computing dtype.
   */
  mapsWeights: boolean;
  /**
   * Where a run with gradient accumulation keeps a copy of the gradients; undefined where a step has one
   * micro-batch.
   */
  gradientCopy?: Place | undefined;
}

export type Bytes = Record<Category, number>;

/** One pool over the run. */
export interface PoolPlan {
  peakBytes: number;
  /** Bytes alive at the peak, by category. */
  categories: Bytes;
}

export interface PhasePlan {
  name: string;
  devicePeakBytes: number;
  hostPeakBytes: number;
  ops(): readonly CountedOp[];
}

/** So many calls of the same cost. */
export type CountedOp = OpTrace & { count: number };

/** The most that is alive at one time of the run, the device's pool. */
export interface Moment {
  phase: string;
  bytes: Bytes;
}

export interface DryRun {
  device: PoolPlan;
  host: PoolPlan;
  /** On a card what the caching allocator makes of the device's pool. */
  replay: Replay | undefined;
  /**
   * Weights that stay in the checkpoint's mapped file: the host needs room for them, though nothing is
   * allocated.
   */
  mappedBytes: number;
  /** The parts of the base whose matrices would be mapped on the host. */
  mappedParts: readonly BasePart[];
  /** Bytes that the host needs: its pool and the mapped weights. */
  hostBytes: number;
  /**
   * Bytes that count against the memory limit. On a card: with the allocator's rounding, the libraries'
   * workspaces and CUDA's context. On the CPU: the pool.
   */
  budgetedBytes: number;
  phases: PhasePlan[];
  timeline(): readonly Moment[];
  tokens: number;
}

/** Moments of a timeline, at most. */
const MOMENTS = 400;
/** Indexes of POOLS. */
const [DEVICE_POOL, HOST_POOL] = [0, 1] as const;
const WORKSPACE = CATEGORIES.indexOf("workspace");
/** Names of the phases of a step; all other phases are of the run around it. */
export const STEP_PHASES = ["vision", "forward", "loss", "backward"];

/**
 * Runs one configuration on meta. parts: what it shares with other runs; inFull: every layer, tile and group
 * one by one, instead of once where they are alike. Throws UserError where the policy does not fit the model.
 */
export function dryRun(
  configuration: Configuration,
  { parts, inFull = false }: { parts?: CommonParts; inFull?: boolean } = {},
): DryRun {
  return observe(configuration, (recorder) => runPhases(configuration, recorder, parts), { inFull });
}

/** Takes down what a body does, phase by phase. */
export interface Recorder {
  take: TakeTrace;
  /** Ends a phase: what was done since the last time, or these traces. */
  end(phase: string, traces?: readonly Trace[]): void;
}

/** Runs a body on meta, as on the configuration's device; it tells what of its model is mapped. */
export function observe(
  configuration: Configuration,
  body: (recorder: Recorder) => Pick<ModelPart, "mappedBytes">,
  { inFull = false } = {},
): DryRun {
  const run = (): Observed =>
    traced("meta", (take) => {
      const phases: Phase[] = [];
      const { mappedBytes } = body({
        take,
        end: (name, traces = [take()]) => void phases.push({ name, traces }),
      });
      return { phases, mappedBytes };
    });
  const planned = (): Observed =>
    planningFor(planTargetOf(configuration), () => (inFull ? run() : abridged(run)));
  return summarize(configuration, withPartsUpTo(mostPartsOf(configuration.batch), planned));
}

interface Observed {
  phases: Phase[];
  mappedBytes: number;
}

/** Returns the device that meta kernels stand for. */
export function planTargetOf({ target }: Pick<Configuration, "target">): PlanTarget {
  return target === "cpu"
    ? { device: "cpu" }
    : { device: "cuda", computeCapability: Number(target.computeCapability) };
}

/** Milliseconds of the micro-batch, from vision to backward. */
export function stepMs({ phases }: DryRun, speed: Speed): number {
  return phases
    .filter(({ name }) => STEP_PHASES.includes(name))
    .reduce((sum, phase) => sum + stepTimeMs(phase.ops(), speed), 0);
}

interface Phase {
  name: string;
  traces: readonly Trace[];
}

function runPhases(
  configuration: Configuration,
  { take, end }: Recorder,
  shared?: CommonParts,
): Pick<ModelPart, "mappedBytes"> {
  using own = shared ? undefined : new CommonParts();
  const parts = shared ?? own!;
  const { model, making, mappedBytes } = parts.model(configuration, take);
  const adapter = parts.adapter(configuration, take);
  end("start", [making, adapter.making]);
  end("resume", [adapter.resuming]);
  runStep(configuration, model, adapter.lora, { take, end });
  end("update", [adapter.updating]);
  end("save", [adapter.saving]);
  return { mappedBytes };
}

/** A phase ends with what is done when it says so; what comes before its first word is its own as well. */
function runStep(
  { batch, policy, lora: { dropout } }: Configuration,
  model: Model,
  lora: Lora,
  { take, end }: Recorder,
): void {
  const options = { lossScale: 1, ...(dropout > 0 && { dropoutSeed: 1n }) };
  const traces: Record<StepPhase["phase"], Trace[]> = { vision: [], forward: [], loss: [], backward: [] };
  for (const { phase, done, total } of trainStep(
    model,
    lora,
    plannedBatch(batch, layoutFor(model, policy)),
    policy,
    options,
  )) {
    if (done === total) traces[phase].push(take()); // of vision once a picture
  }
  traces.backward.push(take());
  for (const [name, own] of Object.entries(traces)) if (own.length > 0) end(name, own);
}

/** The phases' logs read in order: live bytes, their peaks, and the moments between. */
function summarize(configuration: Configuration, { phases, mappedBytes }: Observed): DryRun {
  const { target, batch } = configuration;
  const log = joined(phases.flatMap(({ traces }) => traces.map((trace) => trace.log)));
  let event = 0;
  const pools = [new Pool(), new Pool()] as const;
  const heldBytes = target === "cpu" ? identity : signedBlockBytes;
  if (target !== "cpu") for (const bytes of target.workspaceBytes) pools[DEVICE_POOL].book(WORKSPACE, bytes);
  const moments: { phase: string; categories: Float64Array }[] = [];
  const perMoment = Math.max(1, Math.ceil(log.ids.length / MOMENTS));
  const plans = phases.map(({ name, traces }): PhasePlan => {
    for (const pool of pools) pool.startPhase();
    const phaseEnd = event + traces.reduce((sum, trace) => sum + trace.log.ids.length, 0);
    while (event < phaseEnd) {
      for (const pool of pools) pool.startMoment();
      for (const end = Math.min(phaseEnd, event + perMoment); event < end; event++) {
        const category = log.categories[event]!;
        const bytes = log.bytes[event]!;
        if (log.pools[event] === DEVICE_POOL) pools[DEVICE_POOL].book(category, heldBytes(bytes));
        else pools[HOST_POOL].book(category, bytes);
      }
      moments.push({ phase: name, categories: pools[0].momentCategories });
    }
    const [devicePeakBytes, hostPeakBytes] = pools.map(({ phasePeakBytes }) => phasePeakBytes);
    return {
      name,
      devicePeakBytes: devicePeakBytes!,
      hostPeakBytes: hostPeakBytes!,
      ops: opsOf(
        traces.map(({ calls }) => calls),
        batch,
      ),
    };
  });
  const [device, host] = pools.map((pool) => ({
    peakBytes: pool.peakBytes,
    categories: named(pool.peakCategories),
  }));
  const replay = target === "cpu" ? undefined : replayOf(log, target);
  return {
    device: device!,
    host: host!,
    replay,
    mappedBytes,
    mappedParts: mappedPartsOf(configuration),
    hostBytes: host!.peakBytes + mappedBytes,
    budgetedBytes: target === "cpu" ? device!.peakBytes : replay!.reservedPeakBytes + target.contextBytes,
    phases: plans,
    timeline: timelineOf(moments),
    tokens: rowsOfSamples(batch).reduce((sum, rows) => sum + rows, 0),
  };
}

/** Live bytes of a pool by category, and what they were at the peaks of the run, a phase and a moment. */
class Pool {
  peakBytes = 0;
  phasePeakBytes = 0;
  peakCategories = new Float64Array(CATEGORIES.length);
  momentCategories = new Float64Array(CATEGORIES.length);
  private momentPeakBytes = 0;
  private liveBytes = 0;
  private readonly live = new Float64Array(CATEGORIES.length);

  startPhase(): void {
    this.phasePeakBytes = this.liveBytes;
  }

  startMoment(): void {
    this.momentPeakBytes = this.liveBytes;
    this.momentCategories = this.live.slice();
  }

  book(category: number, bytes: number): void {
    this.live[category]! += bytes;
    this.liveBytes += bytes;
    if (bytes < 0 || this.liveBytes <= this.momentPeakBytes) return;
    this.momentPeakBytes = this.liveBytes;
    this.momentCategories.set(this.live);
    this.phasePeakBytes = Math.max(this.phasePeakBytes, this.liveBytes);
    if (this.liveBytes <= this.peakBytes) return;
    this.peakBytes = this.liveBytes;
    this.peakCategories.set(this.live);
  }
}

function named(bytes: Float64Array): Bytes {
  return Object.fromEntries(CATEGORIES.map((name, index) => [name, bytes[index]!])) as Bytes;
}

function identity(bytes: number): number {
  return bytes;
}

/** Rounds the bytes of a card's allocation (above zero) or free (below zero) to a block. */
function signedBlockBytes(bytes: number): number {
  return Math.sign(bytes) * blockBytes(Math.abs(bytes));
}

/** PyTorch is told to grow its segments, which wastes the least. */
function replayOf(log: AllocationLog, { workspaceBytes }: Card): Replay {
  return replayAllocations(log, { workspaceBytes, expandableSegments: true });
}

function joined(logs: readonly AllocationLog[]): AllocationLog {
  const length = logs.reduce((sum, { ids }) => sum + ids.length, 0);
  const whole = {
    ids: new Float64Array(length),
    bytes: new Float64Array(length),
    pools: new Uint8Array(length),
    categories: new Uint8Array(length),
  };
  let at = 0;
  for (const { ids, bytes, pools, categories } of logs) {
    whole.ids.set(ids, at);
    whole.bytes.set(bytes, at);
    whole.pools.set(pools, at);
    whole.categories.set(categories, at);
    at += ids.length;
  }
  return whole;
}

function timelineOf(moments: readonly { phase: string; categories: Float64Array }[]): DryRun["timeline"] {
  return () => moments.map(({ phase, categories }) => ({ phase, bytes: named(categories) }));
}

/** Worked out when they are first asked for: most runs of a search are asked for their bytes alone. */
function opsOf(
  calls: readonly (() => readonly CountedCall[])[],
  batch: BatchShape | ExactShape,
): PhasePlan["ops"] {
  let ops: CountedOp[] | undefined;
  return () => {
    ops ??= countedOps(
      calls.flatMap((each) => each()),
      batch,
    );
    return ops;
  };
}

function countedOps(calls: readonly CountedCall[], batch: BatchShape | ExactShape): CountedOp[] {
  const packed = [...rowsOfSamples(batch)];
  const ops = calls.map(({ count, ...call }) => ({
    ...traceOp(isPacked(call, packed) ? { ...call, sampleTokens: packed } : call),
    count,
  }));
  const views = ops.filter(({ kind }) => kind === "none");
  const viewed = views.reduce((sum, { count }) => sum + count, 0);
  const view = {
    name: "view",
    kind: "none",
    flops: 0,
    bytes: 0,
    dtype: "float32",
    stream: "compute",
  } as const;
  return [...ops.filter(({ kind }) => kind !== "none"), { ...view, count: viewed }];
}

/** Whether a call of attention takes all samples at once: rows come first then, and no batch. */
function isPacked({ op, inputs }: Omit<CountedCall, "count">, samples: readonly number[]): boolean {
  return samples.length > 1 && op.startsWith("_flash_attention") && inputs[0]!.shape.length === 3;
}
