/**
 * Tries one configuration without data. The trainer's own parts (weights, factors, optimizer, one
 * micro-batch, one update) run on the meta device. Every allocation and every call of an operator is
 * recorded. Nothing here knows a formula for memory.
 */

import type { Lora } from "../../models/lora.ts";
import type { BasePart } from "../../models/precision/bases.ts";
import type { Model } from "../../models/weights.ts";
import { withPartsUpTo } from "../../nn/plora.ts";
import type { StepPhase } from "../../step/phases.ts";
import { placesOf } from "../../step/policy.ts";
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
import { type Speed, stretchesTimeMs } from "../time/stepTime.ts";
import {
  type BatchShape,
  type ExactShape,
  layoutFor,
  mostPartsOf,
  plannedBatch,
  rowsOfSamples,
} from "./batchShapes.ts";
import { type Configuration, sharersOf } from "./configuration.ts";
import { CommonParts, type ModelPart, type TakeTrace } from "./sharedParts.ts";
import { mappedPartsOf } from "./storedParts.ts";

export type Bytes = Record<Category, number>;

/** The bytes of one pool during the run. */
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
  /** The ops of each stretch of the phase: of each layer, if ranks gather the layers; else all in one. */
  stretches(): readonly (readonly CountedOp[])[];
}

/** An op, and how many calls have the same cost. */
export type CountedOp = OpTrace & { count: number };

/** The device pool's bytes at the highest point of a short stretch of the run. */
export interface Moment {
  phase: string;
  bytes: Bytes;
}

export interface DryRun {
  device: PoolPlan;
  host: PoolPlan;
  /** The caching allocator's behaviour on a card; undefined on the CPU. */
  replay: Replay | undefined;
  /**
   * Bytes of weights that stay in the checkpoint's mapped file. They are not allocated, but the host needs
   * room for them.
   */
  mappedBytes: number;
  /** The parts of the base model whose matrices are mapped if they are on the host. */
  mappedParts: readonly BasePart[];
  /**
   * Bytes that the host needs: its pool and the mapped weights. Several ranks of a machine each have a pool,
   * and share what is mapped.
   */
  hostBytes: number;
  /** Ranks of a machine. */
  perMachine: number;
  /** Bytes of all ranks of a machine, on devices and host together. */
  machineBytes: number;
  /**
   * Bytes that count against the memory limit. On a card: with the allocator's rounding, the libraries'
   * workspaces and CUDA's context. On the CPU: the pool.
   */
  budgetedBytes: number;
  phases: PhasePlan[];
  timeline(): readonly Moment[];
  tokens: number;
}

/** Maximum number of moments in a timeline. */
const MOMENTS = 400;
/** Indexes of POOLS. */
const [DEVICE_POOL, HOST_POOL] = [0, 1] as const;
const WORKSPACE = CATEGORIES.indexOf("workspace");
/** Names of the phases of a step. All other phases belong to the run around the step. */
export const STEP_PHASES = ["vision", "forward", "loss", "backward"];

/**
 * Runs one configuration on meta. parts: shared with other runs. inFull: runs every layer, tile and group,
 * instead of alike ones once. Throws UserError if the policy does not fit the model.
 */
export function dryRun(
  configuration: Configuration,
  { parts, inFull = false }: { parts?: CommonParts; inFull?: boolean } = {},
): DryRun {
  return observe(configuration, (recorder) => runPhases(configuration, recorder, parts), { inFull });
}

/** Records the calls of a body, phase by phase. */
export interface Recorder {
  take: TakeTrace;
  /** Ends a phase. The phase gets everything traced since the last call, or the given traces. */
  end(phase: string, traces?: readonly Trace[]): void;
}

/** Runs a body on meta as if on the configuration's device. The body returns its model's mapped bytes. */
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

/** Returns the milliseconds of the micro-batch, from vision to backward. */
export function stepMs({ phases }: DryRun, speed: Speed): number {
  return phases
    .filter(({ name }) => STEP_PHASES.includes(name))
    .reduce((sum, phase) => sum + stretchesTimeMs(phase.stretches(), speed), 0);
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

/** Runs the step. A phase ends with its last report; calls before its first report belong to it too. */
function runStep(configuration: Configuration, model: Model, lora: Lora, { take, end }: Recorder): void {
  const {
    batch,
    policy,
    lora: { dropout },
  } = configuration;
  const sharers = sharersOf(configuration);
  const options = { lossScale: 1, sharers, ...(dropout > 0 && { dropoutSeed: 1n }) };
  const traces: Record<StepPhase["phase"], Trace[]> = { vision: [], forward: [], loss: [], backward: [] };
  const byLayer = placesOf(policy).layers === "shared";
  let last: StepPhase | undefined;
  for (const part of trainStep(
    model,
    lora,
    plannedBatch(batch, layoutFor(model, policy, sharers)),
    policy,
    options,
  )) {
    const { phase, done, total } = part;
    const before = last?.phase === phase ? last.done : 0;
    if (done === total || (byLayer && done > before)) traces[phase].push(take()); // vision once per picture
    last = part;
  }
  traces.backward.push(take());
  for (const [name, own] of Object.entries(traces)) if (own.length > 0) end(name, own);
}

/** Reads the phases' logs in order and sums them up: live bytes, their peaks, and the moments between. */
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
      ...opsOf(
        traces.map(({ calls }) => calls),
        configuration,
      ),
    };
  });
  const [device, host] = pools.map((pool) => ({
    peakBytes: pool.peakBytes,
    categories: named(pool.peakCategories),
  }));
  const replay = target === "cpu" ? undefined : replayOf(log, target);
  const perMachine = configuration.ranks?.perMachine ?? 1;
  const budgetedBytes =
    target === "cpu" ? device!.peakBytes : replay!.reservedPeakBytes + target.contextBytes;
  const hostBytes = host!.peakBytes * perMachine + mappedBytes;
  return {
    device: device!,
    host: host!,
    replay,
    mappedBytes,
    mappedParts: mappedPartsOf(configuration),
    ...{ hostBytes, budgetedBytes, perMachine, machineBytes: budgetedBytes * perMachine + hostBytes },
    phases: plans,
    timeline: timelineOf(moments),
    tokens: rowsOfSamples(batch).reduce((sum, rows) => sum + rows, 0),
  };
}

/** Live bytes of a pool by category, and their values at the peaks of the run, of a phase and of a moment. */
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

/** Replays a log with growing segments, as lorafit sets PyTorch's allocator; they waste the least. */
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

/** Computes the ops when they are first asked for. Most runs of a search are asked for their bytes alone. */
function opsOf(
  calls: readonly (() => readonly CountedCall[])[],
  { batch, policy }: Configuration,
): Pick<PhasePlan, "ops" | "stretches"> {
  const byLayer = placesOf(policy).layers === "shared";
  let known: CountedOp[][] | undefined;
  const stretches = (): CountedOp[][] => {
    const each = byLayer ? calls : [(): CountedCall[] => calls.flatMap((part) => part())];
    known ??= each.map((part) => countedOps(part(), batch));
    return known;
  };
  return { ops: () => stretches().flat(), stretches };
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

/** Tells whether attention takes all samples at once. Its inputs then begin with rows, without a batch. */
function isPacked({ op, inputs }: Omit<CountedCall, "count">, samples: readonly number[]): boolean {
  return samples.length > 1 && op.startsWith("_flash_attention") && inputs[0]!.shape.length === 3;
}
