/** A run's plan in lines: what it takes and gives up before the run, and planned beside measured after its first step and at its end. */
import { describeSource } from "../../data/samples/badSamples.ts";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { concessionsOf } from "../../plan/policyWords.ts";
import type { Category } from "../../torch/device.ts";
import { DEFECTS_FILE } from "../../train/folder/runLog.ts";
import type { DefectTrace } from "../../train/loop/defectTrace.ts";
import type { PlannedRun } from "../../train/loop/openRun.ts";
import type { StepPeaks } from "../../train/loop/peakWatch.ts";
import type { TrainEvent } from "../../train/loop/trainer.ts";
import { forwardOnly, type PlannedLoss } from "../../train/planning/evalLossPlan.ts";

const NAMES = {
  weights: "frozen base",
  loraParameters: "LoRA",
  loraGradients: "LoRA gradients",
  optimizerState: "optimizer",
  inputData: "input data",
  visionFeatures: "vision",
  boundaryActivations: "boundary activations",
  workingSet: "working set",
  loss: "loss",
  workspace: "workspace",
} as const satisfies Record<Category, string>;

/** Categories that are named one by one; what is left of the peak is a rest. */
const SHOWN_CATEGORIES = 5;

/** None where nothing was planned. */
export function planLines(planned: PlannedRun): string[] {
  return [...stepLines(planned), ...lossLines(planned), ...answerLines(planned)];
}

function stepLines({ plan, demand, planner, limits }: PlannedRun): string[] {
  const { longest } = plan;
  if (!longest || !limits) return [];
  const { run, policy } = longest;
  const of = Number.isFinite(limits.budgetBytes) ? ` of ${formatBytes(limits.budgetBytes)}` : "";
  const tokens = `${formatCount(demand.mostTokens)} tokens`;
  const largest =
    demand.mostTokens > demand.longest.tokens
      ? `micro-batches of up to ${tokens}`
      : `the longest sample, ${describeSource(demand.longest.source)}, ${tokens}`;
  const gives = concessionsOf(policy, planner.config, { mapped: run.mappedParts });
  return [
    `planned ${formatBytes(run.budgetedBytes)}${of}${beside(run)}, for ${largest}: ${partsOf(run.device.categories)}`,
    ...copyLine(plan),
    `policy: ${gives.length > 0 ? gives.join(", ") : "nothing given up"}; shorter micro-batches give up less where they can`,
  ];
}

/** What lies elsewhere: in the host's memory, and frozen weights that are read from where the checkpoint lies. */
function beside({ host, mappedBytes }: DryRun): string {
  return [
    ...(host.peakBytes > 0 ? [`${formatBytes(host.peakBytes)} on the host`] : []),
    ...(mappedBytes > 0 ? [`${formatBytes(mappedBytes)} mapped from the checkpoint's files`] : []),
  ]
    .map((part) => `, and ${part}`)
    .join("");
}

/** What an evaluation takes, where that is more than a step does, and samples that it does without. */
function lossLines({ losses, answers, plan, planner }: PlannedRun): string[] {
  const { largest, least, left = [] } = losses ?? {};
  const lines: string[] = [];
  if (largest && plan.longest) {
    const gives = concessionsOf(largest.policy, planner.config, { beyond: forwardOnly(plan.policy) });
    const parts = [
      { what: "the loss of", ...largest, how: gives.length > 0 ? `, with ${gives.join(", ")}` : "" },
      ...(answers?.most ? [{ what: "an answer to", ...answers.most, how: "" }] : []),
    ];
    const { what, how, ...most } = parts.reduce((one, other) =>
      bytesOf(other) > bytesOf(one) ? other : one,
    );
    if (bytesOf(most) > bytesOf(plan.longest))
      lines.push(
        `an evaluation takes more, ${formatBytes(bytesOf(most))}, for ${what} ${sampleOf(most)}${how}`,
      );
  }
  if (least)
    lines.push(
      `${plural(left.length, "sample")} of the evaluation would not fit and ${left.length === 1 ? "is" : "are"} left out: the least of them, ${sampleOf(least)}, takes ${formatBytes(bytesOf(least))} with what the run holds.`,
    );
  return lines;
}

function bytesOf({ run }: Pick<PlannedLoss, "run">): number {
  return run.budgetedBytes;
}

function sampleOf({ sample: { source, tokens } }: Pick<PlannedLoss, "sample">): string {
  return `${describeSource(source)}, ${formatCount(tokens)} tokens`;
}

/** Answers that an evaluation has to do without. */
function answerLines({ answers }: PlannedRun): string[] {
  if (!answers?.least) return [];
  const { count, left, least } = answers;
  const { sample, run } = least;
  return [
    `${left} of the evaluation's ${plural(count, "answer")} would not fit and count as wrong: the least of them, to ${describeSource(sample.source)}, takes ${formatBytes(run.budgetedBytes)}${beside(run)}, with what the run holds. Losses are computed all the same.`,
  ];
}

/** What a step of several micro-batches takes beside one of a single one. */
function copyLine({ gradientCopy }: PlannedRun["plan"]): string[] {
  if (!gradientCopy) return [];
  const { place, bytes } = gradientCopy;
  return [
    `of it ${formatBytes(bytes)} on the ${place} are a copy of the gradients, by which a micro-batch that runs out of memory is undone`,
  ];
}

/** "planned 201.3 MiB, measured 201.3 MiB", of a card with what is reserved; undefined where nothing was planned. */
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

/** What a run says of a step that took more than planned. */
export function defectLine({
  step,
  defect: { pool, phase, plannedBytes, measuredBytes, categories },
  trace,
}: Omit<Extract<TrainEvent, { event: "defect" }>, "event">): string {
  const percent = ((100 * measuredBytes) / plannedBytes - 100).toFixed(1);
  const where = categories
    .slice(0, SHOWN_CATEGORIES)
    .map(
      ({ category, ...bytes }) =>
        `${NAMES[category]} ${formatBytes(bytes.measuredBytes)} instead of ${formatBytes(bytes.plannedBytes)}`,
    );
  return `step ${step} took ${formatBytes(measuredBytes)} of the ${pool} in its ${phase}, ${percent}% above its plan of ${formatBytes(plannedBytes)}: ${where.join(", ")}. This is a defect of lorafit's plan, not of your run, which goes on: please report it with ${DEFECTS_FILE}${tracedIn(trace)}.`;
}

function tracedIn(trace: DefectTrace): string {
  if (!trace) return "";
  const { file, of } = trace;
  if (of === "the next one like it")
    return `, and with ${file}, each allocation of the next step like it, once that is done`;
  return `, and with ${file}, which has each allocation ${of === "the same step" ? "as the step was done once more" : "of one like it"}`;
}

function partsOf(categories: Record<Category, number>): string {
  const entries = (Object.entries(categories) as [Category, number][]).filter(([, bytes]) => bytes > 0);
  const byBytes = entries.sort(([, one], [, other]) => other - one);
  const shown = byBytes
    .slice(0, SHOWN_CATEGORIES)
    .map(([name, bytes]) => `${NAMES[name]} ${formatBytes(bytes)}`);
  const restBytes = byBytes.slice(SHOWN_CATEGORIES).reduce((sum, [, bytes]) => sum + bytes, 0);
  return [...shown, ...(restBytes > 0 ? [`rest ${formatBytes(restBytes)}`] : [])].join(", ");
}
