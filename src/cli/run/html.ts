/** The page of a run: did the loss fall, how, and within which memory; charts with a table under each. */
import { formatBytes, formatCount, GIB } from "../../errors.ts";
import type { EvalRecord, StepRecord } from "../../train/folder/runLog.ts";
import {
  axisTitle,
  formatTick,
  type LineChart,
  lineChart,
  type Point,
  type Series,
} from "../output/charts.ts";
import { escaped, htmlPage, htmlTable } from "../output/html.ts";
import { formatDuration } from "../output/output.ts";
import { precisionWords } from "./trainReport.ts";

export interface RunPage {
  /** Of the run. */
  folder: string;
  options: Record<string, unknown>;
  steps: readonly StepRecord[];
  evals: readonly EvalRecord[];
  /** Results of `lorafit eval` to compare. */
  scores: readonly Scores[];
  preview?: { name: string; png: Uint8Array } | undefined;
}

export interface Scores {
  name: string;
  loss: number;
  exactMatch?: number;
  anls?: number;
}

/** What a run comes to, in numbers. */
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

const STEPS_AXIS = { label: "step", whole: true } as const;
const TABLE_ROWS = 9;
/** The mean line of a chart takes a tenth of the run's steps, at most so many. */
const MOST_MEAN_STEPS = 25;

/** The page of a run, as one file. */
export function runHtml(run: RunPage): string {
  const summary = runSummary(run.steps);
  const title = headline(summary, run);
  const body = [
    `<h1>${escaped(title)}</h1>`,
    `<p class="lead">${escaped(leadOf(summary, run))}</p>`,
    scoresSection(run.scores),
    `<h2>The course of the run</h2>`,
    `<div class="charts">`,
    ...chartsOf(run, summary).map((chart) => figureOf(chart)),
    "</div>",
    previewSection(run.preview),
    optionsSection(run.options),
  ];
  return htmlPage({ title, style: STYLE, body: body.filter(Boolean).join("\n") });
}

/** A run in numbers; its losses are means over a few steps, as single ones jump. */
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
  const budgetBytes = budgetOf(options);
  const within = budgetBytes === undefined ? "" : ` of the ${formatBytes(budgetBytes)} allowed`;
  return `${loss}, with at most ${formatBytes(peakBytes)}${within}.`;
}

function courseOf(firstLoss: number, lastLoss: number): string {
  if (!Number.isFinite(lastLoss)) return "was not a finite number at the end";
  const last = lastLoss.toFixed(2);
  if (!Number.isFinite(firstLoss) || firstLoss.toFixed(2) === last) return `stayed at ${last}`;
  return `${lastLoss < firstLoss ? "fell" : "rose"} from ${firstLoss.toFixed(2)} to ${last}`;
}

function leadOf({ meanSteps, durationMs, tokens }: RunSummary, { folder, options, steps }: RunPage): string {
  const means =
    meanSteps === 1 ? "of the first and the last step" : `means of the first and the last ${meanSteps} steps`;
  const epochs = (steps.at(-1)?.epoch || 0) + 1;
  const rate = durationMs > 0 ? `, ${formatCount((tokens / durationMs) * 1000)} tokens/s` : "";
  return [
    ...modelWords(options),
    `${formatCount(tokens)} tokens of ${epochs} ${epochs === 1 ? "epoch" : "epochs"} in ${formatDuration(durationMs)}${rate}. Losses are ${means}.`,
    `Every step is in ${folder}/steps.jsonl.`,
  ].join(" ");
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

interface ShownChart {
  chart: LineChart;
  caption: string;
  /** How the table writes a value. */
  format?: (value: number) => string;
}

function chartsOf({ steps, evals, options }: RunPage, { meanSteps }: RunSummary): ShownChart[] {
  const of = (value: (record: StepRecord) => number): Point[] =>
    steps.map((record) => [record.step, value(record)]);
  const maxNorm = typeof options.max_grad_norm === "number" ? options.max_grad_norm : 0;
  const budgetBytes = budgetOf(options);
  const waits = mean(steps.map(({ dataWaitRatio }) => dataWaitRatio));
  const charts: ShownChart[] = [
    {
      chart: {
        title: "Loss",
        x: STEPS_AXIS,
        y: { label: "mean loss of the answer tokens" },
        series: lossSeries(
          of(({ loss }) => loss),
          evals,
          meanSteps,
        ),
      },
      caption: "Natural logarithm units: how surprised the model is by each token of the right answers.",
    },
    {
      chart: {
        title: "Learning rate",
        x: STEPS_AXIS,
        y: { label: "learning rate" },
        series: [{ name: "learning rate", points: of(({ lr }) => lr) }],
      },
      caption: scheduleCaption(options),
    },
    {
      chart: {
        title: "Gradient norm",
        x: STEPS_AXIS,
        y: { label: "norm before clipping" },
        series: [{ name: "gradient norm", points: of(({ gradNorm }) => gradNorm) }],
        ...(maxNorm > 0 && { limit: { name: "clipped to", value: maxNorm } }),
      },
      caption: maxNorm > 0 ? clippedCaption(steps, maxNorm) : "Nothing is clipped.",
    },
    {
      chart: {
        title: "Speed",
        x: STEPS_AXIS,
        y: { label: "speed", unit: "tokens/s" },
        series: [{ name: "tokens/s", points: of(({ tokensPerSecond }) => tokensPerSecond) }],
      },
      caption: Number.isFinite(waits)
        ? `Waiting for pictures took ${Math.round(waits * 100)}% of the time.`
        : "",
    },
  ];
  return steps.some(({ peakBytes }) => peakBytes > 0)
    ? [
        ...charts,
        memoryChart(
          of(({ peakBytes }) => peakBytes),
          budgetBytes,
        ),
      ]
    : charts;
}

function lossSeries(losses: Point[], evals: readonly EvalRecord[], meanSteps: number): Series[] {
  const evaluated: Point[] = evals.map(({ step, loss }) => [step, loss]);
  const smoothed: Series[] =
    meanSteps > 1 ? [{ name: `mean of ${meanSteps}`, points: runningMean(losses, meanSteps) }] : [];
  return [
    { name: "each step", points: losses, look: meanSteps > 1 ? "quiet" : "line" },
    ...smoothed,
    ...(evaluated.length > 0 ? [{ name: "evaluation", points: evaluated, look: "marks" } as const] : []),
  ];
}

/** In MiB where all of it is below a GiB. */
function memoryChart(peaks: Point[], budgetBytes: number | undefined): ShownChart {
  const peakBytes = peaks.reduce((peak, [, bytes]) => Math.max(peak, bytes || 0), 0);
  const isSmall = Math.max(budgetBytes ?? 0, peakBytes) < GIB;
  const [unit, unitBytes] = isSmall ? (["MiB", 2 ** 20] as const) : (["GiB", GIB] as const);
  const share =
    budgetBytes === undefined ? "" : `, ${formatTick((100 * peakBytes) / budgetBytes)}% of the budget`;
  return {
    chart: {
      title: "Memory",
      x: STEPS_AXIS,
      y: { label: "peak of the step", unit },
      series: [{ name: "peak", points: peaks.map(([step, bytes]) => [step, bytes / unitBytes]) }],
      ...(budgetBytes !== undefined && { limit: { name: "budget", value: budgetBytes / unitBytes } }),
    },
    caption: `At most ${formatBytes(peakBytes)}${share}: weights, factors, optimizer and activations.`,
    format: (value) => formatBytes(value * unitBytes),
  };
}

function scheduleCaption({ lr_schedule, learning_rate }: Record<string, unknown>): string {
  const most = typeof learning_rate === "number" ? `at most ${formatTick(learning_rate)}` : undefined;
  const words = [lr_schedule && `${lr_schedule} schedule`, most].filter(Boolean);
  return words.length > 0 ? `${words.join(", ")}.` : "";
}

function clippedCaption(steps: readonly StepRecord[], maxNorm: number): string {
  const clipped = steps.filter(({ gradNorm }) => gradNorm > maxNorm).length;
  return `${formatCount(clipped)} of ${formatCount(steps.length)} steps were longer than ${formatTick(maxNorm)} and were shortened to it.`;
}

function figureOf({ chart, caption, format: written = formatTick }: ShownChart): string {
  const { series, x, y } = chart;
  const format = (value: number): string => (Number.isFinite(value) ? written(value) : "not finite");
  const [main, ...others] = series as [Series, ...Series[]];
  const single = others.length === 0;
  const headings = [
    axisTitle(x),
    ...(single ? [written === formatTick ? axisTitle(y) : y.label] : series.map(({ name }) => name)),
  ];
  const rows = spread(main.points, TABLE_ROWS).map(([at, value]) => [
    formatTick(at),
    format(value),
    ...others.map(({ points }) => shownAt(points, at, format)),
  ]);
  return `<figure>\n${lineChart(chart)}\n<figcaption>${escaped(caption)}</figcaption>\n${htmlTable(headings, rows)}\n</figure>`;
}

function shownAt(points: readonly Point[], at: number, format: (value: number) => string): string {
  const found = points.find(([x]) => x === at);
  return found ? format(found[1]) : "";
}

function scoresSection(scores: readonly Scores[]): string {
  if (scores.length === 0) return "";
  const percent = (ratio: number | undefined): string =>
    ratio === undefined ? "" : `${(100 * ratio).toFixed(1)}%`;
  const rows = scores.map(({ name, loss, exactMatch, anls }) => [
    name,
    loss.toFixed(3),
    percent(exactMatch),
    anls?.toFixed(3) ?? "",
  ]);
  return `<h2>Evaluated</h2>\n${htmlTable(["", "loss", "exact answers", "ANLS (0 to 1)"], rows)}`;
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

function budgetOf({ memory }: Record<string, unknown>): number | undefined {
  return typeof memory === "number" ? memory : undefined;
}

/** The mean of each point and those before it, `count` in all where there are as many. */
function runningMean(points: readonly Point[], count: number): Point[] {
  return points.map(([x], index) => [
    x,
    mean(points.slice(Math.max(0, index + 1 - count), index + 1).map(([, y]) => y)),
  ]);
}

/** So many of the values, evenly from the first to the last. */
function spread<T>(values: readonly T[], count: number): T[] {
  if (values.length <= count) return [...values];
  return Array.from(
    { length: count },
    (_, row) => values[Math.round((row * (values.length - 1)) / (count - 1))]!,
  );
}

/** Mean of the values that are finite; NaN if none is. */
function mean(values: readonly number[]): number {
  const finite = values.filter(Number.isFinite);
  return finite.length === 0 ? Number.NaN : sum(finite) / finite.length;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + (Number.isFinite(value) ? value : 0), 0);
}
