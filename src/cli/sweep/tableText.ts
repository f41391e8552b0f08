/** The table of a sweep as text and as CSV. */
import { formatBytes } from "../../errors.ts";
import type { SweepTable, Trial } from "../../runs/sweepTable.ts";
import { ranked } from "../../sweep/show.ts";
import { formatDuration, table as lined } from "../output/output.ts";

/** Returns the table for people, the best trial first and marked. */
export function tableText(table: SweepTable): string {
  const metrics = shownMetrics(table);
  const head = [
    ...[
      "",
      "trial",
      ...table.varied,
      "state",
      "eval loss",
      ...metrics.map((name) => name.replaceAll("_", " ")),
    ],
    ...["steps", "planned peak", "peak", "time"],
  ];
  const rows = ranked(table).map((trial) => [
    trial.trial === table.best ? "*" : "",
    ...[trial.trial, ...table.varied.map((key) => valueText(trial.options[key])), trial.state],
    ...[numberText(trial.evalLoss), ...metrics.map((name) => numberText(trial.metrics[name]))],
    ...[stepsText(trial), bytesText(trial.plannedPeakBytes), bytesText(trial.peakBytes)],
    trial.elapsedMs > 0 ? formatDuration(trial.elapsedMs) : "",
  ]);
  return lined([head, ...rows]);
}

/** Returns "lora_r 8, learning_rate 1e-4". */
export function settingsText(
  { varied }: Pick<SweepTable, "varied">,
  { options }: Pick<Trial, "options">,
): string {
  return varied.map((key) => `${key} ${valueText(options[key])}`).join(", ");
}

/** Writes small numbers as people do: 5e-5. */
export function valueText(value: unknown): string {
  if (typeof value === "number")
    return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Returns the metrics that the table shows beside the loss: the one that decides, and the usual ones. */
function shownMetrics({ metric, trials }: SweepTable): string[] {
  const known = new Set(trials.flatMap(({ metrics }) => Object.keys(metrics)));
  return [...new Set([metric.name, "exact_match", "anls"])].filter((name) => known.has(name));
}

function numberText(value: number | null | undefined): string {
  return value === null || value === undefined ? "" : value.toFixed(4);
}

function bytesText(bytes: number | null): string {
  return bytes === null ? "" : formatBytes(bytes);
}

function stepsText({ step, totalSteps }: Trial): string {
  return step === 0 ? "" : `${step}/${totalSteps ?? "?"}`;
}

/** Returns the table as CSV, quoted as in RFC 4180, in the order of the trials. */
export function tableCsv({ varied, trials }: SweepTable): string {
  const metrics = [...new Set(trials.flatMap((trial) => Object.keys(trial.metrics)))];
  const head = [
    ...["trial", ...varied, "state", "evalLoss", ...metrics, "plannedPeakBytes", "peakBytes"],
    ...["step", "totalSteps", "elapsedMs", "adapter", "error"],
  ];
  const rows = trials.map((trial) => [
    ...[trial.trial, ...varied.map((key) => trial.options[key]), trial.state, trial.evalLoss],
    ...[...metrics.map((name) => trial.metrics[name]), trial.plannedPeakBytes, trial.peakBytes],
    ...[trial.step, trial.totalSteps, Math.round(trial.elapsedMs), trial.adapter, trial.error],
  ]);
  return [head, ...rows].map((row) => row.map(cellText).join(",")).join("\n");
}

function cellText(value: unknown): string {
  if (value === null || value === undefined) return "";
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
