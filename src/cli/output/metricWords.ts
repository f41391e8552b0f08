/** Writes metrics of answers: "exact match 0.250, ANLS 0.500". */
import { METRICS, type MetricName, type Metrics } from "../../train/evaluate/scores.ts";

/** The metrics that people are shown unless they ask for others. */
export const USUAL_METRICS: readonly MetricName[] = ["exact_match", "anls"];

/** Returns the metrics of these names that have a value, each once and behind a comma. */
export function metricWords(metrics: Metrics, names: readonly MetricName[] = USUAL_METRICS): string {
  return [...new Set(names)]
    .flatMap((name) => {
      const value = metrics[name];
      return value === undefined ? [] : [`, ${METRICS[name].title} ${value.toFixed(3)}`];
    })
    .join("");
}
