/** One plan as plain JSON: sizes, policy, memory and time. */
import { pictureFormOf } from "../models/families.ts";
import { type DryRun, type PhasePlan, STEP_PHASES } from "../plan/dryRun/dryRun.ts";
import type { Planner, SizedPlan, SizedWorkload } from "../plan/planner.ts";
import { stepTimeMs, stretchesTimeMs, sumTimeMs } from "../plan/time/stepTime.ts";
import type { Policy } from "../step/policy.ts";
import { CATEGORIES } from "../torch/device.ts";
import type { Question } from "./question.ts";

export interface PlanSummary {
  workload: SizedWorkload;
  policy: Policy;
  fits: boolean;
  /** Bytes that count against the device's limit: on a card with CUDA's context and rounding. */
  deviceBytes: number;
  /** Bytes on the host, with weights that stay in the checkpoint's mapped files. */
  hostBytes: number;
  /** Tokens of a micro-batch. */
  tokens: number;
  time: StepTime;
}

export interface StepTime {
  microBatchMs: number;
  /** Time of the optimizer, once a step. */
  updateMs: number;
  /**
   * Time that a step waits for the sum of all ranks' gradients, beyond the backward pass beside which it goes
   * on; absent for one process.
   */
  sumMs?: number;
  /** Micro-batches that are computed at the same time, by different ranks; 1 if absent. */
  atOnce?: number;
}

/** The recommended plan also says what its memory consists of. */
export interface FullSummary extends PlanSummary {
  /** Bytes at the device's peak by category; on a card also `context` and `allocator`. Sum: deviceBytes. */
  parts: Record<string, number>;
  hostPoolBytes: number;
  mappedBytes: number;
}

/** One phase of the run, such as forward. */
export interface PhaseSummary {
  name: string;
  devicePeakBytes: number;
  hostPeakBytes: number;
  /** Undefined for phases that read and write files. */
  ms?: number;
  flops: number;
}

export function summaryOf({ planner }: Pick<Question, "planner">, plan: SizedPlan): PlanSummary {
  const { workload, policy, fits, run, stepMs } = plan;
  const { limit } = pictureFormOf(planner.config);
  const { updateMs, sumMs } = updateTimes(planner, run);
  return {
    workload: { ...workload, [limit.key]: workload.pictureLimit }, // by both names
    ...{ policy, fits, tokens: run.tokens },
    ...{ deviceBytes: run.budgetedBytes, hostBytes: run.hostBytes },
    time: {
      ...{ microBatchMs: stepMs, updateMs },
      ...(sumMs !== undefined && { sumMs, atOnce: planner.atOnce }),
    },
  };
}

/** Returns the times of the update, and among ranks of the sum of gradients before it. */
function updateTimes(planner: Planner, run: DryRun): { updateMs: number; sumMs: number | undefined } {
  const { wiring, speed, config } = planner;
  const phase = (wanted: string): PhasePlan | undefined => run.phases.find(({ name }) => name === wanted);
  const ops = phase(UPDATE)?.ops() ?? [];
  const own = ops.filter(({ collective }) => !collective);
  const updateMs = stepTimeMs(own, speed);
  if (!wiring) return { updateMs, sumMs: undefined };
  const backwardMs = stretchesTimeMs(phase("backward")?.stretches() ?? [], speed);
  return { updateMs, sumMs: sumTimeMs(ops, { backwardMs, layers: config.layers }, speed) };
}

export function fullSummaryOf(question: Question, plan: SizedPlan): FullSummary {
  const { run } = plan;
  return {
    ...summaryOf(question, plan),
    parts: partsOf(question, plan),
    hostPoolBytes: run.host.peakBytes,
    mappedBytes: run.mappedBytes,
  };
}

export function phasesOf({ planner }: Question, { run }: SizedPlan): PhaseSummary[] {
  const { updateMs, sumMs = 0 } = updateTimes(planner, run);
  return run.phases.map((phase) => {
    const { name, devicePeakBytes, hostPeakBytes } = phase;
    const ops = phase.ops();
    return {
      ...{ name, devicePeakBytes, hostPeakBytes },
      ...(STEP_PHASES.includes(name) && { ms: stretchesTimeMs(phase.stretches(), planner.speed) }),
      ...(name === UPDATE && { ms: updateMs + sumMs }),
      flops: ops.reduce((sum, { flops, count }) => sum + flops * count, 0),
    };
  });
}

/** Phase that a step has once, after its micro-batches: the sum of gradients among ranks, and the update. */
export const UPDATE = "update";

/** Returns the bytes at the device's peak by category; on a card also `context` and `allocator`. */
export function partsOf(
  { card }: Pick<Question, "card">,
  { run }: Pick<SizedPlan, "run">,
): Record<string, number> {
  const parts: Record<string, number> = Object.fromEntries(
    CATEGORIES.map((name) => [name, run.device.categories[name]]),
  );
  if (!card) return parts;
  const known = run.device.peakBytes + card.contextBytes;
  return { ...parts, context: card.contextBytes, allocator: run.budgetedBytes - known };
}

/** Milliseconds for a number of samples, if each is as long as the planned ones. */
export function samplesMs(
  { workload, time }: Pick<PlanSummary, "workload" | "time">,
  samples: number,
): number {
  const { batchSize, accumulation = 1 } = workload;
  const { microBatchMs, updateMs, sumMs = 0, atOnce = 1 } = time;
  const microBatches = Math.ceil(samples / batchSize);
  const fullSteps = Math.floor(microBatches / accumulation);
  const rest = microBatches - fullSteps * accumulation;
  const rounds = fullSteps * Math.ceil(accumulation / atOnce) + Math.ceil(rest / atOnce);
  return rounds * microBatchMs + Math.ceil(microBatches / accumulation) * (sumMs + updateMs);
}

/** Milliseconds of a whole step. */
export function wholeStepMs(plan: Pick<PlanSummary, "workload" | "time">): number {
  const { batchSize, accumulation = 1 } = plan.workload;
  return samplesMs(plan, batchSize * accumulation);
}
