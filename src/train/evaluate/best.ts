/**
 * Compares evaluations of a run, by their loss or by a metric of their answers. Needs no engine: a sweep and
 * the page ask the same questions of evals.jsonl.
 */
import type { EvalRecord } from "../folder/runLog.ts";
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
