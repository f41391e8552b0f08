/**
 * Compares evaluations of a run, by their loss or by a metric of their answers. Needs no engine: a sweep and
 * the page ask the same questions of evals.jsonl.
 */
import type { EvalRecord } from "../folder/runLog.ts";
import type { EarlyStop } from "../options/checkpointOptions.ts";
import { allMetrics, METRICS, type MetricName } from "./scores.ts";

/** The loss, or the metric by which evaluations are compared. */
export type Objective = "loss" | MetricName;

/** The part of an evaluation that a comparison needs. */
export type Compared = Pick<EvalRecord, "loss" | "samples"> &
  Partial<Pick<EvalRecord, "exactMatch" | "anls" | "metrics">>;

/** Returns the loss or the metric of an evaluation; undefined if the metric had nothing to score. */
export function objectiveOf(record: Compared, objective: Objective): number | undefined {
  return objective === "loss" ? record.loss : allMetrics(record)[objective];
}

/**
 * Whether an evaluation is better than another, by more than minDelta. One of fewer samples, because memory
 * was short, says less.
 */
export function improves(one: Compared, other: Compared, objective: Objective, minDelta = 0): boolean {
  if (one.samples !== other.samples) return one.samples > other.samples;
  const [value, best] = [objectiveOf(one, objective), objectiveOf(other, objective)];
  if (value === undefined || best === undefined) return value !== undefined;
  const isHigherBetter = objective !== "loss" && METRICS[objective].better === "higher";
  return isHigherBetter ? value > best + minDelta : value < best - minDelta;
}

/**
 * Says why a run ends early: the last evaluations have not improved on an earlier one. Returns undefined if
 * the run goes on. It follows from the evaluations alone, so that a resumed run ends at the same step.
 */
export function earlyStopReason(
  evals: readonly (Compared & { step: number })[],
  earlyStop: EarlyStop | undefined,
  objective: Objective,
): string | undefined {
  let [best, ...others] = evals;
  if (!best || !earlyStop) return undefined;
  const { patience, min_delta } = earlyStop;
  let waited = 0;
  for (const record of others) {
    const isBetter = improves(record, best, objective, min_delta);
    waited = isBetter ? 0 : waited + 1;
    if (isBetter) best = record;
  }
  if (waited < patience) return undefined;
  const name = objective === "loss" ? "evaluation loss" : METRICS[objective].title;
  const least = min_delta > 0 ? ` by more than ${min_delta}` : "";
  const times = patience === 1 ? "evaluation" : `${patience} evaluations`;
  const value = objectiveOf(best, objective)?.toFixed(4) ?? "unknown";
  return `the last ${times} did not improve the ${name}${least} on ${value} at step ${best.step}`;
}
