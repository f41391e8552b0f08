/** Reads what a trial's run has reached, from the folder of the run. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { EVAL_LOSS, type SweepTable, type Trial } from "../runs/sweepTable.ts";
import { improves, type Objective } from "../train/evaluate/best.ts";
import { METRICS, type MetricName } from "../train/evaluate/scores.ts";
import { lastGoodCheckpoint } from "../train/folder/checkpoints.ts";

import {
  ADAPTER_FOLDER,
  BEST_FOLDER,
  EVALS_FILE,
  type EvalRecord,
  readRecords,
  STEPS_FILE,
  type StepRecord,
} from "../train/folder/runLog.ts";

export type Results = Pick<Trial, "evalLoss" | "metrics" | "peakBytes" | "adapter" | "step" | "bestStep">;

/** Returns the metric of a table for the option `metric` of its trials. */
export function metricOf(option: Objective): SweepTable["metric"] {
  return option === "loss"
    ? { name: EVAL_LOSS, better: "lower" }
    : { name: option, better: METRICS[option].better };
}

/** Returns the results of a run. folder: of the sweep; run: of the trial, in it. */
export async function readResults(
  folder: string,
  run: string,
  { metric: { name } }: Pick<SweepTable, "metric">,
): Promise<Results> {
  const objective = name === EVAL_LOSS ? "loss" : (name as MetricName);
  const steps = await readRecords<StepRecord>(join(folder, run, STEPS_FILE));
  const evals = await readRecords<EvalRecord>(join(folder, run, EVALS_FILE));
  const best = evals.reduce<EvalRecord | undefined>(
    (best, record) => (!best || improves(record, best, objective) ? record : best),
    undefined,
  );
  const adapter = join(run, BEST_FOLDER);
  const peaks = steps.map(({ peakBytes }) => peakBytes).filter(Number.isFinite);
  return {
    evalLoss: best?.loss ?? null,
    metrics: finite(best?.metrics ?? {}),
    bestStep: best?.step ?? null,
    adapter: best && existsSync(join(folder, adapter)) ? adapter : null,
    peakBytes: peaks.length > 0 ? peaks.reduce((most, bytes) => Math.max(most, bytes)) : null,
    step: steps.at(-1)?.step ?? 0,
  };
}

/** JSON writes null for a number that is none. */
function finite(metrics: object): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).filter(([, value]) => Number.isFinite(value)));
}

/** Returns whether a run has done, evaluated and saved everything up to a step. */
export async function hasReached(folder: string, step: number, totalSteps: number): Promise<boolean> {
  const steps = await readRecords<StepRecord>(join(folder, STEPS_FILE));
  if ((steps.at(-1)?.step ?? 0) < step) return false; // without a look at the checkpoints, which may be large
  const checkpoint = await lastGoodCheckpoint(folder, () => {});
  if (!checkpoint || checkpoint.state.step < step) return false;
  const isEvaluated = checkpoint.state.evals.some((record) => record.step === step);
  return isEvaluated && (step < totalSteps || existsSync(join(folder, ADAPTER_FOLDER)));
}
