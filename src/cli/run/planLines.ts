/**
 * Prints a run's plan: its memory and policy before the run; planned beside measured memory after the first
 * step and at the end.
 */
import { describeSource } from "../../data/samples/badSamples.ts";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import type { Category } from "../../torch/device.ts";
import type { DefectTrace, StepPeaks } from "../../train/facts/peaks.ts";
import type { DefectFact, NamedSample, PlanFact, PlannedMemory } from "../../train/facts/runFact.ts";
import { DEFECTS_FILE } from "../../train/folder/runLog.ts";

const NAMES = {
  weights: "frozen base",
  loraParameters: "LoRA",
  loraGradients: "LoRA gradients",
  optimizerState: "optimizer",
  inputData: "input data",
  visionFeatures: "vision",
  boundaryActivations: "saved activations",
  workingSet: "working set",
  loss: "loss",
  workspace: "workspace",
} as const satisfies Record<Category, string>;

/** Number of categories that are named; the others are summed up. */
const SHOWN_CATEGORIES = 5;

/** Returns the lines about a plan; none if nothing was planned. */
export function planLines(plan: Omit<PlanFact, "fact">): string[] {
  return [...stepLines(plan), ...evaluationLines(plan)];
}

function stepLines({ step, limits, mostTokens, longest, gradientCopy }: Omit<PlanFact, "fact">): string[] {
  if (!step) return [];
  const of = limits.deviceBytes === undefined ? "" : ` of ${formatBytes(limits.deviceBytes)}`;
  const tokens = `${formatCount(mostTokens)} tokens`;
  const largest =
    mostTokens > longest.tokens
      ? `micro-batches of up to ${tokens}`
      : `the longest sample, ${describeSource(longest.sample)}, ${tokens}`;
  const { concessions } = step;
  return [
    `planned ${formatBytes(step.limitedBytes)}${of}${beside(step)}, for ${largest}: ${partsOf(step.byCategory)}`,
    ...copyLine(gradientCopy),
    `policy: ${concessions.length > 0 ? concessions.join(", ") : "everything stays on the device"}; shorter micro-batches use faster policies if they fit`,
  ];
}

/**
 * Returns what is not on the device: bytes on the host, and frozen weights mapped from the checkpoint's
 * files.
 */
function beside({ hostBytes, mappedBytes }: PlannedMemory): string {
  return [
    ...(hostBytes > 0 ? [`${formatBytes(hostBytes)} on the host`] : []),
    ...(mappedBytes > 0 ? [`${formatBytes(mappedBytes)} mapped from the checkpoint's files`] : []),
  ]
    .map((part) => `, and ${part}`)
    .join("");
}

/** Says what an evaluation needs if that is more than a step does, and what does not fit. */
function evaluationLines({ evaluation, step }: Omit<PlanFact, "fact">): string[] {
  if (!evaluation) return [];
  const { loss, answer, skipped, unanswered } = evaluation;
  const lines: string[] = [];
  if (loss && step) {
    const how = loss.concessions.length > 0 ? `, with ${loss.concessions.join(", ")}` : "";
    const parts = [
      { what: "the loss of", ...loss, how },
      ...(answer ? [{ what: "an answer to", ...answer, how: "" }] : []),
    ];
    const most = parts.reduce((one, other) => (other.limitedBytes > one.limitedBytes ? other : one));
    if (most.limitedBytes > step.limitedBytes)
      lines.push(
        `an evaluation needs more: ${formatBytes(most.limitedBytes)}, for ${most.what} ${sampleOf(most)}${most.how}`,
      );
  }
  if (skipped) {
    const { count, smallest } = skipped;
    lines.push(
      `${plural(count, "sample")} of the evaluation would not fit and ${count === 1 ? "is" : "are"} left out: the smallest, ${sampleOf(smallest)}, needs ${formatBytes(smallest.limitedBytes)} together with the run.`,
    );
  }
  if (unanswered) {
    const { count, total, smallest } = unanswered;
    lines.push(
      `${count} of the evaluation's ${plural(total, "answer")} would not fit and count as wrong: the smallest, to ${describeSource(smallest.sample)}, needs ${formatBytes(smallest.limitedBytes)}${beside(smallest)}, together with the run. Losses are computed all the same.`,
    );
  }
  return lines;
}

function sampleOf({ sample, tokens }: NamedSample): string {
  return `${describeSource(sample)}, ${formatCount(tokens)} tokens`;
}

/** Says what a step of several micro-batches needs for the copy of its gradients. */
function copyLine(gradientCopy: PlanFact["gradientCopy"]): string[] {
  if (!gradientCopy) return [];
  const { place, bytes } = gradientCopy;
  return [
    `${formatBytes(bytes)} of it, on the ${place}, are a copy of the gradients: it undoes a micro-batch that runs out of memory`,
  ];
}

/**
 * Returns "planned 201.3 MiB, measured 201.3 MiB", on a card also reserved bytes; undefined if nothing was
 * planned.
 */
export function peaksLine({ planned, measured, isExact }: StepPeaks): string | undefined {
  if (!planned) return undefined;
  const pair = (plannedBytes: number, measuredBytes: number): string =>
    `planned ${isExact ? "" : "at most "}${formatBytes(plannedBytes)}, measured ${formatBytes(measuredBytes)}`;
  const host =
    planned.host.peakBytes > 0 || measured.host.bytes > 0
      ? `; host: ${pair(planned.host.peakBytes, measured.host.bytes)}`
      : "";
  const reserved =
    planned.reservedBytes !== undefined && measured.reservedBytes !== undefined
      ? `; reserved: ${pair(planned.reservedBytes, measured.reservedBytes)}`
      : "";
  return `${pair(planned.device.peakBytes, measured.device.bytes)}${reserved}${host}`;
}

/** Returns the warning about a step that took more memory than planned. */
export function defectLine({
  step,
  defect: { pool, phase, plannedBytes, measuredBytes, categories },
  trace,
}: Omit<DefectFact, "fact">): string {
  const percent = ((100 * measuredBytes) / plannedBytes - 100).toFixed(1);
  const where = categories
    .slice(0, SHOWN_CATEGORIES)
    .map(
      ({ category, ...bytes }) =>
        `${NAMES[category]} ${formatBytes(bytes.measuredBytes)} instead of ${formatBytes(bytes.plannedBytes)}`,
    );
  return `step ${step} took ${formatBytes(measuredBytes)} of the ${pool} in its ${phase}, ${percent}% above its plan of ${formatBytes(plannedBytes)}: ${where.join(", ")}. This is a defect of lorafit's plan. Your run is fine and continues. Please report it with ${DEFECTS_FILE}${tracedIn(trace)}.`;
}

function tracedIn(trace: DefectTrace | undefined): string {
  if (!trace) return "";
  const { file, of } = trace;
  if (of === "the next one like it")
    return `, and with ${file}, each allocation of the next step like it, once that is done`;
  return `, and with ${file}, which has each allocation ${of === "the same step" ? "as the step was done once more" : "of one like it"}`;
}

function partsOf(categories: Partial<Record<Category, number>>): string {
  const entries = (Object.entries(categories) as [Category, number][]).filter(([, bytes]) => bytes > 0);
  const byBytes = entries.sort(([, one], [, other]) => other - one);
  const shown = byBytes
    .slice(0, SHOWN_CATEGORIES)
    .map(([name, bytes]) => `${NAMES[name]} ${formatBytes(bytes)}`);
  const restBytes = byBytes.slice(SHOWN_CATEGORIES).reduce((sum, [, bytes]) => sum + bytes, 0);
  return [...shown, ...(restBytes > 0 ? [`rest ${formatBytes(restBytes)}`] : [])].join(", ");
}
