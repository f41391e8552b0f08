/** One plan as plain JSON: sizes, policy, memory and time. */
import { pictureFormOf } from "../models/families.ts";
import { STEP_PHASES } from "../plan/dryRun/dryRun.ts";
import type { SizedPlan, SizedWorkload } from "../plan/planner.ts";
import { stepTimeMs, stretchesTimeMs } from "../plan/time/stepTime.ts";
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
  /** Time to add up the gradients of all ranks, once a step; absent for one process. */
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
  const update = run.phases.find(({ name }) => name === UPDATE)?.ops() ?? [];
  const msOf = (isSent: boolean): number =>
    stepTimeMs(
      update.filter(({ collective }) => isSent === (collective !== undefined)),
      planner.speed,
    );
  const { wiring } = planner;
  return {
    workload: { ...workload, [limit.key]: workload.pictureLimit }, // by both names
    ...{ policy, fits, tokens: run.tokens },
    ...{ deviceBytes: run.budgetedBytes, hostBytes: run.hostBytes },
    time: {
      ...{ microBatchMs: stepMs, updateMs: msOf(false) },
      ...(wiring && { sumMs: msOf(true), atOnce: planner.atOnce }),
    },
  };
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
  return run.phases.map((phase) => {
    const { name, devicePeakBytes, hostPeakBytes } = phase;
    const ops = phase.ops();
    return {
      ...{ name, devicePeakBytes, hostPeakBytes },
      ...([...STEP_PHASES, UPDATE].includes(name) && {
        ms: stretchesTimeMs(phase.stretches(), planner.speed),
      }),
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
