/** Plans a run as train() does before it loads anything, and writes nothing: for those who choose a run. */

import { stepTimeMs } from "../../plan/time/stepTime.ts";
import { ALONE } from "../../torch/peers/peers.ts";
import { FactStream } from "../facts/factStream.ts";
import { type TrainInput, trainOptions } from "../options/options.ts";
import type { RunPlanning } from "../planning/planRun.ts";
import { workloadOf } from "../planning/policyByLength.ts";
import { type Closers, openInputs, planInputs } from "./openRun.ts";

/** Memory and time of a run. Times are without evaluations. */
export interface PlannedRun {
  totalSteps: number;
  /** Peak of the device's pool in a step of the largest micro-batch, in bytes. */
  peakBytes: number;
  /** Mean time of a micro-batch, and of an update, in milliseconds. */
  microBatchMs: number;
  updateMs: number;
  /** Micro-batches of a step. */
  accumulation: number;
  /** Source of the times. */
  timesBy: string;
  evalSamples: number;
}

/**
 * Plans a run. Throws UserError for what is wrong with its data, and TooLittleMemoryError if it does not fit.
 */
export async function planOnly(input: TrainInput): Promise<PlannedRun> {
  const closers: Closers = [];
  try {
    const facts = new FactStream([]);
    const opening = await openInputs(trainOptions(input), {
      ...{ checkpoint: undefined, facts, closers },
      peers: ALONE,
    });
    const { planner, demand, schedule, data, options } = opening;
    const planned = await planInputs(opening);
    const run = planned.plan.longest?.run ?? planned.plan.plannedAtMost(demand.mostTokens);
    const update = run.phases.find(({ name }) => name === "update");
    return {
      totalSteps: schedule.totalSteps,
      peakBytes: run.device.peakBytes,
      microBatchMs: meanMs(opening, planned),
      updateMs: update ? stepTimeMs(update.ops(), planner.speed) : 0,
      accumulation: options.gradient_accumulation,
      timesBy: planner.timesBy,
      evalSamples: data.evalSamples.length,
    };
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

const NO_LIMITS = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };

/** Returns the mean time of micro-batches that stand for all, each under the policy of its length. */
function meanMs(
  { planner, demand }: Pick<Awaited<ReturnType<typeof openInputs>>, "planner" | "demand">,
  { plan, workload, limits = NO_LIMITS }: RunPlanning,
): number {
  const times = demand.typical.map((batch) => {
    const tokens = batch.rows.reduce((sum, rows) => sum + rows, 0);
    return planner.plan(workloadOf(workload, batch), plan.policyFor(tokens), limits).stepMs;
  });
  return times.reduce((sum, ms) => sum + ms, 0) / times.length;
}
