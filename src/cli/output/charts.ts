/**
 * Draws charts as SVG strings. Colours are CSS variables of the page (--chart-1,
 * --chart-2, ..., --chart-limit) with fallbacks, and text takes the page's colour, so that a chart fits
 * light, dark and print.
 */
import { escaped } from "./page.ts";

export interface Axis {
  /** Name of the quantity: "loss". */
  label: string;
  /** Unit, such as "GiB" or "tokens/s"; absent without one. */
  unit?: string;
  /** Ticks at whole numbers only. */
  whole?: boolean;
}

export interface Series {
  name: string;
  /** Points in order of x; a point that is not finite interrupts the line. */
  points: readonly Point[];
  /**
   * line: joined; quiet: joined, in the background of another; band: wide and pale, below another; marks:
   * dots.
   */
  look?: keyof typeof LOOKS | "marks";
}

export type Point = readonly [x: number, y: number];

export interface LineChart {
  title: string;
  x: Axis;
  y: Axis;
  series: readonly Series[];
  /** A value that the series are to be seen against, as a dashed line across. */
  limit?: { name: string; value: number };
  /** Start of the y axis. Default: zero, if no value is negative. */
  yFrom?: "zero" | "data";
}

const WIDTH = 440;
const HEIGHT = 270;
const FRAME = { left: 62, right: 428, top: 58, bottom: 222 } as const;
const X_TICKS = 6;
const Y_TICKS = 5;
/** A line has at most so many pieces along x, each with its first, least, greatest and last point. */
const MOST_BUCKETS = 366;
/** Strokes of lines. */
const LOOKS = {
  line: 'stroke-width="2"',
  quiet: 'stroke-width="1.2" stroke-opacity=".55"',
  band: 'stroke-width="8" stroke-opacity=".35"',
} as const;
const COLOURS = ["#1f6fb2", "#c2410c", "#0f7b4d", "#7c3aad"] as const;

interface Scale {
  ticks: number[];
  /** Place of a value, in the chart's pixels. */
  at: (value: number) => number;
}

/**
 * Draws lines, dots and a limit over one x axis. Series without a finite point are named in the legend
 * and not drawn.
 */
export function lineChart(chart: LineChart): string {
  const { title, x, y, series, limit, yFrom = "zero" } = chart;
  const points = series.flatMap((one) => one.points.filter(isFinitePoint));
  const values = [...points.map(([, value]) => value), ...(limit ? [limit.value] : [])];
  const xScale = scaleOf(rangeOf(points.map(([at]) => at)), x, X_TICKS, [FRAME.left, FRAME.right]);
  const yRange = rangeOf(yFrom === "zero" ? [0, ...values] : values);
  const yScale = scaleOf(yRange, y, Y_TICKS, [FRAME.bottom, FRAME.top]);
  return [
    `<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(title)}" xmlns="http://www.w3.org/2000/svg" font-size="13" fill="currentColor">`,
    label(title, { x: 4, y: 17, weight: 600, size: 15 }),
    legend(series, limit),
    yAxis(yScale, y),
    xAxis(xScale, x),
    limit ? limitLine(limit.value, yScale) : "",
    ...series.map((one, index) => drawSeries(one, colourOf(index), xScale, yScale)),
    "</svg>",
  ].join("\n");
}

/** Writes a number for ticks and tables: "0.25", "1,500", "5e-5". */
export function formatTick(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return Number(value.toPrecision(3)).toExponential();
  return Number(value.toPrecision(4)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

/** Returns an axis title: "loss", "memory, GiB". */
export function axisTitle({ label: name, unit }: Axis): string {
  return unit === undefined ? name : `${name}, ${unit}`;
}

/**
 * Returns round numbers that span a range, in steps of 1, 2 or 5 times a power of ten, about `count` of them.
 */
export function niceTicks([low, high]: Point, count: number, leastStep = 0): number[] {
  const rough = Math.max(leastStep, (high - low) / Math.max(1, count - 1));
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((factor) => rough <= factor * power * (1 + 1e-9)) ?? 10) * power;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) =>
    Number(((first + index) * step).toPrecision(12)),
  );
}

/** Thins a line out: keeps the first, least, greatest and last point of each bucket along x. */
export function thinned(points: readonly Point[], buckets: number): readonly Point[] {
  if (points.length <= 4 * buckets) return points;
  return Array.from({ length: buckets }, (_, bucket) => {
    const [start, end] = [bucket, bucket + 1].map((edge) => Math.floor((edge * points.length) / buckets));
    return extremes(points.slice(start, end));
  }).flat();
}

function extremes(points: readonly Point[]): Point[] {
  let [least, greatest] = [0, 0];
  for (const [index, [, value]] of points.entries()) {
    if (value < points[least]![1]) least = index;
    if (value > points[greatest]![1]) greatest = index;
  }
  const indices = [...new Set([0, least, greatest, points.length - 1])].sort((a, b) => a - b);
  return indices.map((index) => points[index]!);
}

/** Numbers that lie closer have no ticks between them that can be told apart. */
const LEAST_SPAN = 1e-300;

/** Returns the least and the greatest value; two different ones in any case. */
function rangeOf(values: readonly number[]): Point {
  const low = values.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);
  const high = values.reduce((greatest, value) => Math.max(greatest, value), Number.NEGATIVE_INFINITY);
  if (low > high) return [0, 1];
  if (high - low >= LEAST_SPAN) return [low, high];
  const half = Math.max(Math.abs(low), Math.abs(high)) / 2;
  const room = half < LEAST_SPAN ? 1 : half;
  return [low === 0 ? 0 : low - room, high + room];
}

/** Returns a scale whose ends are ticks; along x the ends are those of the data. */
function scaleOf(range: Point, { whole }: Axis, count: number, [start, end]: Point): Scale {
  const ticks = niceTicks(range, count, whole ? 1 : 0);
  const along = start < end;
  const [from, to] = along ? range : [ticks[0]!, ticks.at(-1)!];
  const at = (value: number): number => start + ((value - from) / (to - from)) * (end - start);
  return { ticks: ticks.filter((tick) => tick >= from && tick <= to), at };
}

function yAxis(scale: Scale, axis: Axis): string {
  const ticks = scale.ticks.map((tick) => {
    const y = round(scale.at(tick));
    return `<path d="M${FRAME.left} ${y}H${FRAME.right}" stroke="currentColor" stroke-opacity=".15"/>${label(formatTick(tick), { x: FRAME.left - 7, y: y + 4.5, anchor: "end" })}`;
  });
  return [...ticks, label(axisTitle(axis), { x: 4, y: FRAME.top - 13, opacity: 0.75 })].join("");
}

function xAxis(scale: Scale, axis: Axis): string {
  const ticks = scale.ticks.map((tick) => {
    const x = round(scale.at(tick));
    return `<path d="M${x} ${FRAME.bottom}v5" stroke="currentColor" stroke-opacity=".5"/>${label(formatTick(tick), { x, y: FRAME.bottom + 19, anchor: "middle" })}`;
  });
  const base = `<path d="M${FRAME.left} ${FRAME.bottom}H${FRAME.right}" stroke="currentColor" stroke-opacity=".5"/>`;
  const title = label(axisTitle(axis), { x: FRAME.right, y: HEIGHT - 8, anchor: "end", opacity: 0.75 });
  return [base, ...ticks, title].join("");
}

/** Draws the legend under the title; nothing for a single series, which title and axis name. */
function legend(series: readonly Series[], limit: LineChart["limit"]): string {
  if (series.length < 2 && !limit) return "";
  const entries = series.map(({ name, look = "line" }, index) => ({
    name,
    swatch: swatchOf(look, colourOf(index)),
  }));
  if (limit)
    entries.push({ name: limit.name, swatch: `stroke="${LIMIT}" stroke-width="2" stroke-dasharray="4 3"` });
  const widths = entries.map(({ name }) => 34 + name.length * 7 + (name.match(/[A-Z]/g)?.length ?? 0) * 3);
  return entries
    .map(({ name, swatch }, index) => {
      const right = widths.slice(index).reduce((sum, width) => sum + width, 0);
      const x = round(FRAME.right - right + 8);
      return `<path d="M${x} 26h16" ${swatch} fill="none"/>${label(name, { x: x + 20, y: 30.5, size: 12.5 })}`;
    })
    .join("");
}

const LIMIT = "var(--chart-limit, #b3261e)";

function swatchOf(look: keyof typeof LOOKS | "marks", colour: string): string {
  if (look === "marks")
    return `stroke="${colour}" stroke-width="8" stroke-linecap="round" stroke-dasharray="0 8" stroke-dashoffset="-8"`;
  return `stroke="${colour}" ${LOOKS[look]}`;
}

function limitLine(value: number, scale: Scale): string {
  return `<path d="M${FRAME.left} ${round(scale.at(value))}H${FRAME.right}" stroke="${LIMIT}" stroke-width="1.6" stroke-dasharray="5 4" fill="none"/>`;
}

function drawSeries({ points, look = "line" }: Series, colour: string, x: Scale, y: Scale): string {
  if (look === "marks")
    return points
      .filter(isFinitePoint)
      .map((point) => dot(point, colour, x, y))
      .join("");
  const pieces = piecesOf(points);
  const dots = pieces.filter(({ length }) => length === 1).map(([only]) => dot(only!, colour, x, y));
  const commands = pieces
    .filter(({ length }) => length > 1)
    .map(
      (piece) =>
        `M${thinned(piece, MOST_BUCKETS)
          .map(([at, value]) => `${round(x.at(at))} ${round(y.at(value))}`)
          .join("L")}`,
    );
  if (commands.length === 0) return dots.join("");
  return `<path d="${commands.join("")}" fill="none" stroke="${colour}" ${LOOKS[look]} stroke-linejoin="round"/>${dots.join("")}`;
}

function dot([at, value]: Point, colour: string, x: Scale, y: Scale): string {
  return `<circle cx="${round(x.at(at))}" cy="${round(y.at(value))}" r="4" fill="${colour}"/>`;
}

/** Splits points into runs between those that are not finite. */
function piecesOf(points: readonly Point[]): Point[][] {
  const pieces: Point[][] = [[]];
  for (const point of points) {
    if (isFinitePoint(point)) pieces.at(-1)!.push(point);
    else pieces.push([]);
  }
  return pieces.filter(({ length }) => length > 0);
}

function isFinitePoint([x, y]: Point): boolean {
  return Number.isFinite(x) && Number.isFinite(y);
}

function colourOf(index: number): string {
  const number = index % COLOURS.length;
  return `var(--chart-${number + 1}, ${COLOURS[number]})`;
}

interface LabelPlace {
  x: number;
  y: number;
  anchor?: "middle" | "end";
  size?: number;
  weight?: number;
  opacity?: number;
}

function label(text: string, { x, y, anchor, size, weight, opacity }: LabelPlace): string {
  const attributes = [
    anchor ? ` text-anchor="${anchor}"` : "",
    size ? ` font-size="${size}"` : "",
    weight ? ` font-weight="${weight}"` : "",
    opacity ? ` fill-opacity="${opacity}"` : "",
  ];
  return `<text x="${round(x)}" y="${round(y)}"${attributes.join("")}>${escaped(text)}</text>`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
