/** Draws a ChartModel with uPlot, in the colours of the theme. */
import uPlot from "uplot";
import { colorOf } from "../../theme.ts";
import { KINDS, type Kind } from "./kinds.ts";
import { type Axis, type ChartModel, type Series, stackedValues, type Tone } from "./model.ts";

export interface PlotOptions {
  width: number;
  height: number;
  /** Called with the index of the x under the cursor; undefined if there is none. */
  onCursor(index: number | undefined): void;
}

const FONT = "12px system-ui, sans-serif";

/** Returns a plot whose data lie in `target`. Areas are drawn first, the topmost of a stack before those below. */
export function createPlot(target: HTMLElement, model: ChartModel, options: PlotOptions): uPlot {
  const tone = toneColors();
  return new uPlot(
    {
      width: options.width,
      height: options.height,
      padding: [model.marks?.length ? 14 : 6, 10, 0, 0],
      legend: { show: false },
      cursor: {
        ...(model.sync && { sync: { key: model.sync, scales: ["x", null] } }),
        drag: { x: true, y: false },
        points: { size: 6 },
        y: false,
      },
      scales: {
        x: { time: false, ...(model.x.isLogarithmic && { distr: 3 }) },
        y: { ...(model.y.isLogarithmic && { distr: 3 }), ...rangeOf(model) },
      },
      axes: [plotAxis(model.x, tone, { label: model.x.label }), plotAxis(model.y, tone, {})],
      series: [{}, ...drawingOrder(model.series).map((index) => plotSeries(model, index, tone))],
      hooks: {
        setCursor: [(plot) => options.onCursor(plot.cursor.idx ?? undefined)],
        draw: [(plot) => drawMarks(plot, model, tone)],
      },
    },
    plotData(model),
    target,
  );
}

/** Returns the model's data in the order in which series are drawn. */
export function plotData(model: ChartModel): uPlot.AlignedData {
  const values = stackedValues(model.series);
  return [
    [...model.xs],
    ...drawingOrder(model.series).map((index) => [...(values[index] ?? [])]),
  ] as uPlot.AlignedData;
}

/** Returns indices of series as they are drawn: areas from the top of the stack, then faint curves, then others. */
export function drawingOrder(series: readonly Series[]): number[] {
  const layer = ({ draw }: Series): number => (draw === "area" ? 0 : draw === "faint" ? 1 : 2);
  return series
    .map((each, index) => ({ index, layer: layer(each), rank: each.draw === "area" ? -index : index }))
    .sort((one, other) => one.layer - other.layer || one.rank - other.rank)
    .map(({ index }) => index);
}

type ToneColors = (tone: Tone | "line" | "ground") => string;

/** Returns colours by tone; each is looked up once. */
function toneColors(): ToneColors {
  const known = new Map<string, string>();
  return (tone) => {
    const found = known.get(tone) ?? colorOf(/^\d$/.test(tone) ? `--tone-${tone}` : `--${tone}`);
    known.set(tone, found);
    return found;
  };
}

function plotSeries(model: ChartModel, index: number, tone: ToneColors): uPlot.Series {
  const { label, tone: name, draw = "line" } = model.series[index]!;
  const color = tone(name);
  const stepped = model.isStepped && uPlot.paths.stepped?.({ align: 1 });
  const shared = { label, spanGaps: true, ...(stepped && { paths: stepped }) };
  if (draw === "area")
    return { ...shared, stroke: tone("ground"), width: 0.5, fill: color, points: { show: false } };
  if (draw === "outline")
    return { ...shared, stroke: color, width: 1.5, dash: [5, 4], points: { show: false } };
  if (draw === "faint") return { ...shared, stroke: color, width: 1, alpha: 0.45, points: { show: false } };
  const isDotted = draw === "dots";
  return {
    ...shared,
    stroke: color,
    width: 1.6,
    points: isDotted
      ? { show: true, size: 6, fill: color }
      : { show: model.xs.length < 3, size: 5, fill: color },
  };
}

function plotAxis(axis: Axis, tone: ToneColors, { label }: { label?: string }): uPlot.Axis {
  const kind: Kind = KINDS[axis.kind];
  const isX = label !== undefined;
  return {
    stroke: tone("muted"),
    font: FONT,
    labelFont: FONT,
    grid: { stroke: tone("line"), width: 1 },
    ticks: { stroke: tone("line"), width: 1, size: 4 },
    gap: 4,
    ...(isX && { label, labelSize: 18, labelGap: 0, space: 64 }),
    ...(isX ? { size: 26 } : { size: axisWidth, space: 32 }),
    ...(kind.steps && !axis.isLogarithmic && { incrs: kind.steps }),
    values: (_, splits, __, ___, step) =>
      splits.map((value) => (value === null || value === undefined ? "" : kind.tick(value, step ?? 1))),
  };
}

/** Returns room for the longest tick, and at least as much as keeps charts below each other in line. */
function axisWidth(plot: uPlot, values: string[] | null): number {
  const longest = (values ?? []).reduce((best, value) => (value.length > best.length ? value : best), "");
  plot.ctx.font = FONT;
  const ratio = plot.ctx.getTransform().a || 1;
  return Math.max(60, Math.ceil(plot.ctx.measureText(longest).width / (ratio === 1 ? 1 : ratio)) + 12);
}

/** Makes room for levels, and lets an axis begin at 0 where sizes are compared by eye. */
function rangeOf({ y, levels = [], series }: ChartModel): Pick<uPlot.Scale, "range"> {
  if (y.isLogarithmic) return {};
  const fromZero = y.fromZero || series.some(({ draw }) => draw === "area");
  return {
    range: (_, low, high) => {
      const [min, max] = [low ?? 0, Math.max(high ?? 1, ...levels.map(({ at }) => at))];
      if (fromZero) return [0, max > 0 ? max * 1.05 : 1];
      const room = (max - min || Math.abs(max) || 1) * 0.06;
      return [min - room, max + room];
    },
  };
}

/** Draws vertical marks and horizontal levels with their labels. */
function drawMarks(plot: uPlot, { marks = [], levels = [] }: ChartModel, tone: ToneColors): void {
  const { ctx } = plot;
  ctx.save();
  ctx.lineWidth = 1.5 * uPlot.pxRatio;
  ctx.font = `${11 * uPlot.pxRatio}px system-ui, sans-serif`;
  let labelEnd = Number.NEGATIVE_INFINITY; // labels that would cover each other are left out
  for (const mark of marks) labelEnd = Math.max(labelEnd, drawMark(plot, mark, tone, labelEnd));
  ctx.setLineDash([]);
  for (const level of levels) drawLevel(plot, level, tone);
  ctx.restore();
}

type Mark = NonNullable<ChartModel["marks"]>[number];
type Level = NonNullable<ChartModel["levels"]>[number];

/** Draws a mark and returns where its label ends. */
function drawMark(plot: uPlot, mark: Mark, tone: ToneColors, labelEnd: number): number {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const x = Math.round(plot.valToPos(mark.at, "x", true));
  if (x < bbox.left || x > bbox.left + bbox.width) return labelEnd;
  ctx.strokeStyle = tone(mark.tone);
  ctx.fillStyle = tone(mark.tone);
  ctx.setLineDash([3 * ratio, 3 * ratio]);
  line(ctx, [x, bbox.top], [x, bbox.top + bbox.height]);
  if (!mark.isLabelled) {
    triangle(ctx, x, bbox.top - ratio, 5 * ratio);
    return labelEnd;
  }
  const width = ctx.measureText(mark.label).width;
  const left = Math.min(x + 3 * ratio, bbox.left + bbox.width - width);
  if (left < labelEnd) return labelEnd;
  ctx.textAlign = "left";
  ctx.fillText(mark.label, left, bbox.top - 4 * ratio);
  return left + width + 6 * ratio;
}

function drawLevel(plot: uPlot, { at, label, tone: name }: Level, tone: ToneColors): void {
  const { ctx, bbox } = plot;
  const ratio = uPlot.pxRatio;
  const y = Math.round(plot.valToPos(at, "y", true));
  if (y < bbox.top || y > bbox.top + bbox.height) return;
  ctx.strokeStyle = tone(name);
  ctx.fillStyle = tone(name);
  line(ctx, [bbox.left, y], [bbox.left + bbox.width, y]);
  ctx.textAlign = "right";
  const isHigh = y - bbox.top < 16 * ratio;
  ctx.fillText(label, bbox.left + bbox.width - 4 * ratio, y + (isHigh ? 13 : -4) * ratio);
}

/** Fills a triangle that stands on its tip. */
function triangle(ctx: CanvasRenderingContext2D, x: number, tip: number, size: number): void {
  ctx.beginPath();
  ctx.moveTo(x - size, tip - 1.6 * size);
  ctx.lineTo(x + size, tip - 1.6 * size);
  ctx.lineTo(x, tip);
  ctx.fill();
}

function line(ctx: CanvasRenderingContext2D, from: [number, number], to: [number, number]): void {
  ctx.beginPath();
  ctx.moveTo(...from);
  ctx.lineTo(...to);
  ctx.stroke();
}
