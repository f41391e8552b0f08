/**
 * Writes the page of a run: did the loss fall, how, and in how much memory; charts with a table under each.
 */
import { formatBytes, formatCount } from "../../errors.ts";
import { earlyStopReason } from "../../train/evaluate/best.ts";
import { METRIC_NAMES, METRICS, type Metrics } from "../../train/evaluate/scores.ts";
import type { EvalRecord, StepRecord } from "../../train/folder/runLog.ts";
import type { StepMemory } from "../../train/folder/stepMemory.ts";
import { EarlyStop } from "../../train/options/checkpointOptions.ts";
import { formatDuration } from "../output/output.ts";
import { escaped, htmlPage, htmlTable } from "../output/page.ts";
import { PICTURES_STYLE, type ShownPicture } from "../output/shownPictures.ts";
import { ANSWERS_STYLE, answersSection, type ComparedAnswer } from "./comparedAnswers.ts";
import { type ChartedRun, limitOf, mean, runFigures, sum } from "./runCharts.ts";
import { stepMemoryFigure } from "./stepMemoryFigure.ts";
import { precisionWords } from "./trainReport.ts";

export interface RunPage extends ChartedRun {
  /** Output folder of the run. */
  folder: string;
  /** Results of `lorafit eval` to compare. */
  scores: readonly Scores[];
  /** Questions of the compared evaluations, with the answers of each. */
  answers: readonly (ComparedAnswer & { pictures: ShownPicture[] })[];
  /** The memory over one step; undefined for a run without a record of it. */
  memory?: StepMemory | undefined;
  preview?: { name: string; png: Uint8Array } | undefined;
}

export interface Scores {
  name: string;
  loss: number;
  exactMatch?: number;
  anls?: number;
  /** All metrics by name; absent in evaluations of older versions. */
  metrics?: Metrics;
}

/** A run in numbers. */
export interface RunSummary {
  steps: number;
  /** Means over the first and the last `meanSteps` steps: single steps scatter with their samples. */
  firstLoss: number;
  lastLoss: number;
  meanSteps: number;
  peakBytes: number;
  durationMs: number;
  tokens: number;
}

const STYLE = `
:root { --chart-1: light-dark(#1f6fb2, #6db3f2); --chart-2: light-dark(#c2410c, #ff9d66); --chart-3: light-dark(#0f7b4d, #62d6a0); --chart-4: light-dark(#7c3aad, #c79bf0); --chart-limit: light-dark(#b3261e, #ff8a80) }
.lead { color: var(--quiet); margin: 0 0 1.2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.2rem 1.5rem }
figure { margin: 0; break-inside: avoid; border: 1px solid var(--edge); border-radius: 8px; padding: .7rem }
figure svg, figure img { display: block; width: 100%; height: auto; border-radius: 4px }
figcaption { color: var(--quiet); font-size: .9rem; margin: .4rem 0 0 }
.table { overflow-x: auto; margin-top: .5rem }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid var(--edge) }
th { font-weight: 600; white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.options td:last-child, .options th:last-child { text-align: left; overflow-wrap: anywhere }
@media print { .charts { grid-template-columns: 1fr 1fr; gap: 4mm } table, figcaption { font-size: 8pt } }`;

/** Most steps of a mean loss; it is over a tenth of the run's steps if that is less. */
const MOST_MEAN_STEPS = 25;

/** Returns the page of a run as one file. */
export function runHtml(run: RunPage): string {
  const summary = runSummary(run.steps);
  const title = headline(summary, run);
  const body = [
    `<h1>${escaped(title)}</h1>`,
    `<p class="lead">${escaped(leadOf(summary, run))}</p>`,
    scoresSection(run.scores),
    `<h2>The course of the run</h2>`,
    `<div class="charts">`,
    ...runFigures(run, summary.meanSteps),
    "</div>",
    memorySection(run.memory),
    answersSection(run.answers),
    previewSection(run.preview),
    optionsSection(run.options),
  ];
  return htmlPage({
    title,
    style: STYLE + PICTURES_STYLE + ANSWERS_STYLE,
    body: body.filter(Boolean).join("\n"),
  });
}

/** Sums up a run in numbers. Its losses are means over a few steps, because single ones scatter. */
export function runSummary(steps: readonly StepRecord[]): RunSummary {
  const meanSteps = Math.max(1, Math.min(MOST_MEAN_STEPS, Math.floor(steps.length / 10)));
  const losses = steps.map(({ loss }) => loss);
  return {
    steps: steps.at(-1)?.step ?? 0,
    firstLoss: mean(losses.slice(0, meanSteps)),
    lastLoss: mean(losses.slice(-meanSteps)),
    meanSteps,
    peakBytes: steps.reduce((peak, { peakBytes }) => Math.max(peak, peakBytes || 0), 0),
    durationMs: sum(steps.map(({ stepMs }) => stepMs)),
    tokens: sum(steps.map(({ tokens }) => tokens)),
  };
}

function headline({ firstLoss, lastLoss, steps, peakBytes }: RunSummary, { options }: RunPage): string {
  const course = courseOf(firstLoss, lastLoss);
  const loss = `The loss ${course} in ${formatCount(steps)} ${steps === 1 ? "step" : "steps"}`;
  if (peakBytes === 0) return `${loss}.`;
  const limitBytes = limitOf(options);
  const within = limitBytes === undefined ? "" : ` of the ${formatBytes(limitBytes)} allowed`;
  return `${loss}, with at most ${formatBytes(peakBytes)}${within}.`;
}

function courseOf(firstLoss: number, lastLoss: number): string {
  if (!Number.isFinite(lastLoss)) return "was not a finite number at the end";
  const last = lastLoss.toFixed(2);
  if (!Number.isFinite(firstLoss) || firstLoss.toFixed(2) === last) return `stayed at ${last}`;
  return `${lastLoss < firstLoss ? "fell" : "rose"} from ${firstLoss.toFixed(2)} to ${last}`;
}

function leadOf(
  { meanSteps, durationMs, tokens }: RunSummary,
  { folder, options, steps, evals }: RunPage,
): string {
  const means =
    meanSteps === 1 ? "of the first and the last step" : `means of the first and the last ${meanSteps} steps`;
  const epochs = (steps.at(-1)?.epoch || 0) + 1;
  const rate = durationMs > 0 ? `, ${formatCount((tokens / durationMs) * 1000)} tokens/s` : "";
  return [
    ...modelWords(options),
    `${formatCount(tokens)} tokens of ${epochs} ${epochs === 1 ? "epoch" : "epochs"} in ${formatDuration(durationMs)}${rate}. Losses are ${means}.`,
    ...earlyWords(options, evals),
    `Every step is in ${folder}/steps.jsonl.`,
  ].join(" ");
}

/** One sentence on why the run ended before its last step, if it did. */
function earlyWords(options: Record<string, unknown>, evals: readonly EvalRecord[]): string[] {
  const { data: earlyStop } = EarlyStop.safeParse(options.early_stop);
  const metric = METRIC_NAMES.find((name) => name === options.metric) ?? "loss";
  const reason = earlyStopReason(evals, earlyStop, metric);
  return reason === undefined ? [] : [`The run ended early: ${reason}.`];
}

/** One sentence on the model, with what the run's options say of it. */
function modelWords(options: Record<string, unknown>): string[] {
  const { model, lora_r, device } = options;
  const precision = options.dtype === undefined ? "" : precisionWords(options);
  const words = [
    model,
    lora_r && `LoRA rank ${lora_r}`,
    [precision, device && `on ${device}`].filter(Boolean).join(" "),
  ];
  const known = words.filter(Boolean);
  return known.length > 0 ? [`${known.join(", ")}.`] : [];
}

function memorySection(memory: StepMemory | undefined): string {
  return memory ? `<h2>The memory over one step</h2>\n${stepMemoryFigure(memory)}` : "";
}

function scoresSection(scores: readonly Scores[]): string {
  if (scores.length === 0) return "";
  const percent = (ratio: number | undefined): string =>
    ratio === undefined ? "" : `${(100 * ratio).toFixed(1)}%`;
  const others = (["field_f1", "cer", "wer"] as const).filter((name) =>
    scores.some(({ metrics }) => metrics?.[name] !== undefined),
  );
  const rows = scores.map(({ name, loss, exactMatch, anls, metrics }) => [
    name,
    loss.toFixed(3),
    percent(exactMatch),
    anls?.toFixed(3) ?? "",
    ...others.map((metric) => metrics?.[metric]?.toFixed(3) ?? ""),
  ]);
  const titles = others.map((metric) => METRICS[metric].title);
  return `<h2>Evaluated</h2>\n${htmlTable(["", "loss", "exact answers", "ANLS (0 to 1)", ...titles], rows)}`;
}

function previewSection(preview: RunPage["preview"]): string {
  if (!preview) return "";
  const data = Buffer.from(preview.png).toString("base64");
  return `<h2>A picture as the model sees it</h2>\n<figure><img alt="${escaped(preview.name)} with its tiles" src="data:image/png;base64,${data}"></figure>`;
}

function optionsSection(options: Record<string, unknown>): string {
  const rows = Object.entries(options).map(([name, value]) => [
    name,
    name === "memory" && typeof value === "number" ? formatBytes(value) : shownValue(value),
  ]);
  return `<h2>Options of the run</h2>\n<div class="options">${htmlTable(["option", "value"], rows)}</div>`;
}

function shownValue(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
