/** Estimates how long the rest of a sweep takes: by plan, corrected by the time of the steps done so far. */
import type { SweepTable, Trial } from "../runs/sweepTable.ts";
import { type Rung, stepsAt } from "./halving.ts";

export interface Estimate {
  /** Infinity if nothing is known. */
  leftMs: number;
  /** Measured time by planned time; undefined before the first trial. */
  ratio: number | undefined;
}

/** Steps of a trial that is not planned; all that are not planned count alike. */
const UNPLANNED = { stepMs: 1, totalSteps: 100 };

/** Returns the time left on so many devices. */
export function estimateOf(table: SweepTable, rungs: readonly Rung[], devices: number): Estimate {
  const done = table.trials.filter(({ step, elapsedMs }) => step > 0 && elapsedMs > 0);
  const plannedMs = done.reduce((sum, trial) => sum + trial.step * stepMsOf(trial), 0);
  const ratio =
    plannedMs > 0 ? done.reduce((sum, { elapsedMs }) => sum + elapsedMs, 0) / plannedMs : undefined;
  const isPlanned = table.trials.some(({ plannedStepMs }) => plannedStepMs !== null);
  const leftMs = workLeft(table.trials, rungs) / devices;
  return { leftMs: leftMs * (ratio ?? (isPlanned ? 1 : Number.POSITIVE_INFINITY)), ratio };
}

/** Returns the planned time of all steps that are left. */
function workLeft(trials: readonly Trial[], rungs: readonly Rung[]): number {
  const open = trials.filter(({ state }) => state === "planned" || state === "running");
  const now = open.reduce((sum, trial) => {
    const end = stepsAt(rungs[trial.rung ?? 0] ?? { share: 1, trials: 1 }, stepsOf(trial));
    return sum + Math.max(0, end - trial.step) * stepMsOf(trial);
  }, 0);
  const later = rungs.reduce((sum, rung, index) => {
    if (index === 0 || open.length === 0) return sum;
    const reached = trials.filter((trial) => (trial.rung ?? 0) >= index).length;
    const share = rung.share - rungs[index - 1]!.share;
    const work = open.reduce((all, trial) => all + share * stepsOf(trial) * stepMsOf(trial), 0) / open.length;
    return sum + Math.max(0, Math.min(rung.trials, open.length) - reached) * work;
  }, 0);
  return now + later;
}

function stepMsOf({ plannedStepMs }: Trial): number {
  return plannedStepMs ?? UNPLANNED.stepMs;
}

function stepsOf({ totalSteps }: Trial): number {
  return totalSteps ?? UNPLANNED.totalSteps;
}
