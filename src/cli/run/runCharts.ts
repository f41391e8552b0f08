/** The charts of a run: loss, answers, learning rate, gradient norm, speed, and memory against its limit. */
import { formatBytes, formatCount, GIB } from "../../errors.ts";
import { allMetrics, METRIC_NAMES, METRICS } from "../../train/evaluate/scores.ts";
import type { EvalRecord, StepRecord } from "../../train/folder/runLog.ts";
import {
  axisTitle,
  formatTick,
  type LineChart,
  lineChart,
  type Point,
  type Series,
} from "../output/charts.ts";
import { escaped, htmlTable } from "../output/page.ts";

const STEPS_AXIS = { label: "step", whole: true } as const;
const TABLE_ROWS = 9;

interface ShownChart {
  chart: LineChart;
  caption: string;
  /** Writes a value in the table. */
  format?: (value: number) => string;
}

/** The options and records that the charts of a run show. */
export interface ChartedRun {
  options: Record<string, unknown>;
  steps: readonly StepRecord[];
  evals: readonly EvalRecord[];
}

/**
 * Returns figures of a run, each with its chart, a caption and a table. Losses are smoothed over `meanSteps`
 * steps.
 */
export function runFigures(run: ChartedRun, meanSteps: number): string[] {
  return chartsOf(run, meanSteps).map((chart) => figureOf(chart));
}

function chartsOf({ steps, evals, options }: ChartedRun, meanSteps: number): ShownChart[] {
  const of = (value: (record: StepRecord) => number): Point[] =>
    steps.map((record) => [record.step, value(record)]);
  const maxNorm = typeof options.max_grad_norm === "number" ? options.max_grad_norm : 0;
  const limitBytes = limitOf(options);
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
  return [
    ...charts.slice(0, 1),
    ...answersChart(evals, options.metric),
    ...charts.slice(1),
    ...(steps.some(({ peakBytes }) => peakBytes > 0) ? [memoryChart(steps, limitBytes)] : []),
  ];
}

/**
 * Returns a chart of how good the answers of the evaluations were; none without evaluations. Error rates are
 * shown only if the run's best adapter follows one.
 */
function answersChart(evals: readonly EvalRecord[], chosen: unknown): ShownChart[] {
  const series = METRIC_NAMES.filter((name) => METRICS[name].better === "higher" || name === chosen)
    .map(
      (name): Series => ({
        name: name === "exact_match" ? "exact answers" : METRICS[name].title,
        points: evals.map((record) => [record.step, allMetrics(record)[name] ?? Number.NaN]),
        look: evals.length > 1 ? "line" : "marks",
      }),
    )
    .filter(({ points }) => points.some(([, value]) => Number.isFinite(value)));
  if (series.length === 0) return [];
  const chart = { title: "Answers of the evaluations", x: STEPS_AXIS, y: { label: "share of 1" }, series };
  return [
    {
      chart,
      caption:
        "Exact answers: the share that is just as expected. ANLS: how similar the texts are, 0 to 1. docs/training.md explains every metric.",
    },
  ];
}

function lossSeries(losses: Point[], evals: readonly EvalRecord[], meanSteps: number): Series[] {
  const evaluated: Point[] = evals.map(({ step, loss }) => [step, loss]);
  const smoothed: Series[] =
    meanSteps > 1 ? [{ name: `mean of ${meanSteps}`, points: runningMean(losses, meanSteps) }] : [];
  return [
    { name: "each step", points: losses, look: meanSteps > 1 ? "quiet" : "line" },
    ...smoothed,
    ...(evaluated.length > 0
      ? [{ name: "evaluation", points: evaluated, look: evaluated.length > 1 ? "line" : "marks" } as const]
      : []),
  ];
}

/**
 * Peaks of the steps, in MiB if all of them are below a GiB; with the planned ones if the run has recorded
 * them.
 */
function memoryChart(steps: readonly StepRecord[], limitBytes: number | undefined): ShownChart {
  const peakBytes = steps.reduce((peak, step) => Math.max(peak, step.peakBytes || 0), 0);
  const isSmall = Math.max(limitBytes ?? 0, peakBytes) < GIB;
  const [unit, unitBytes] = isSmall ? (["MiB", 2 ** 20] as const) : (["GiB", GIB] as const);
  const of = (value: (record: StepRecord) => number | undefined): Point[] =>
    steps.map((record) => [record.step, (value(record) ?? Number.NaN) / unitBytes]);
  const planned = of(({ plannedPeakBytes }) => plannedPeakBytes);
  const isPlanned = planned.some(([, amount]) => Number.isFinite(amount));
  const share =
    limitBytes === undefined ? "" : `, ${formatTick((100 * peakBytes) / limitBytes)}% of the limit`;
  return {
    chart: {
      title: "Memory",
      x: STEPS_AXIS,
      y: { label: "peak of the step", unit },
      series: [
        { name: isPlanned ? "measured" : "peak", points: of(({ peakBytes }) => peakBytes) },
        ...(isPlanned ? [{ name: "planned", points: planned, look: "band" } as const] : []),
      ],
      ...(limitBytes !== undefined && { limit: { name: "limit", value: limitBytes / unitBytes } }),
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
  const format = (value: number): string => (Number.isFinite(value) ? written(value) : "no number");
  const [main, ...others] = series as [Series, ...Series[]];
  const single = others.length === 0;
  const headings = [
    axisTitle(x),
    ...(single ? [written === formatTick ? axisTitle(y) : y.label] : series.map(({ name }) => name)),
  ];
  const rows = tablePoints(main.points, others).map(([at, value]) => [
    formatTick(at),
    format(value),
    ...others.map(({ points }) => shownAt(points, at, format)),
  ]);
  return `<figure>\n${lineChart(chart)}\n<figcaption>${escaped(caption)}</figcaption>\n${htmlTable(headings, rows)}\n</figure>`;
}

/**
 * Returns points of the first series for the table's rows: evenly spread over all steps, and over those at
 * which a series with fewer points has one, such as evaluations.
 */
function tablePoints(main: readonly Point[], others: readonly Series[]): Point[] {
  const few = others.filter(({ points }) => points.length < main.length);
  const marked = new Set(few.flatMap(({ points }) => spread(points, TABLE_ROWS - 2).map(([at]) => at)));
  const shown = new Set(spread(main, TABLE_ROWS - Math.min(marked.size, TABLE_ROWS - 2)));
  return main.filter((point) => shown.has(point) || marked.has(point[0]));
}

function shownAt(points: readonly Point[], at: number, format: (value: number) => string): string {
  const found = points.find(([x]) => x === at);
  return found && Number.isFinite(found[1]) ? format(found[1]) : "";
}

/** Bytes of the memory limit that the run was given. */
export function limitOf({ memory }: Record<string, unknown>): number | undefined {
  return typeof memory === "number" ? memory : undefined;
}

/** Replaces each point by the mean of itself and those before it, at most `count` in all. */
function runningMean(points: readonly Point[], count: number): Point[] {
  return points.map(([x], index) => [
    x,
    mean(points.slice(Math.max(0, index + 1 - count), index + 1).map(([, y]) => y)),
  ]);
}

/** Returns `count` of the values, evenly from the first to the last. */
function spread<T>(values: readonly T[], count: number): T[] {
  if (values.length <= count) return [...values];
  return Array.from(
    { length: count },
    (_, row) => values[Math.round((row * (values.length - 1)) / (count - 1))]!,
  );
}

/** Mean of the values that are finite; NaN if none is. */
export function mean(values: readonly number[]): number {
  const finite = values.filter(Number.isFinite);
  return finite.length === 0 ? Number.NaN : sum(finite) / finite.length;
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + (Number.isFinite(value) ? value : 0), 0);
}
