/** The trials of a sweep by the numbers that they are compared by. */
import type { SweepDetail, Trial } from "../../../../src/server/ui/api.ts";

export type SweepTrial = SweepDetail["table"]["trials"][number];

/** A number that trials are compared by. */
export interface Metric {
  name: string;
  better: "lower" | "higher";
}

/** Returns the sweep's own metric, the loss, and every other number that its trials have. */
export function metricsOf({ table }: SweepDetail): Metric[] {
  const names = new Set([
    table.metric.name,
    "evalLoss",
    ...table.trials.flatMap(({ metrics }) => Object.keys(metrics)),
  ]);
  return [...names].map((name) =>
    name === table.metric.name ? table.metric : { name, better: LOWER.test(name) ? "lower" : "higher" },
  );
}

/** Metrics that count errors. */
const LOWER = /loss|^cer$|^wer$/i;

export function metricOf(trial: Trial, { name }: Pick<Metric, "name">): number | undefined {
  const value = name === "evalLoss" ? trial.evalLoss : trial.metrics[name];
  return value === null || value === undefined || !Number.isFinite(value) ? undefined : value;
}

/** Returns the measured peak, or the planned one before it is measured. */
export function peakOf({ peakBytes, plannedPeakBytes }: Trial): number | undefined {
  return peakBytes ?? plannedPeakBytes ?? undefined;
}

/** Returns trials with the best first, and those without the metric last. */
export function sortedByMetric<T extends Trial>(trials: readonly T[], metric: Metric): T[] {
  const sign = metric.better === "lower" ? 1 : -1;
  const rank = (trial: T): number => sign * (metricOf(trial, metric) ?? sign * Number.POSITIVE_INFINITY);
  return [...trials].sort((one, other) => rank(one) - rank(other) || one.trial - other.trial);
}
