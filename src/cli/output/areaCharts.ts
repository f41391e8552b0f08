/**
 * Draws charts of areas as SVG strings: layers on top of each other over time, and a grid of cells by colour.
 */
import { formatTick, niceTicks } from "./charts.ts";
import { escaped } from "./page.ts";

export interface StackedAreas {
  title: string;
  /** Layers from the bottom; all have the same number of values. */
  layers: readonly { name: string; values: readonly number[] }[];
  /** Phase of each value; a line is drawn between two phases. */
  phases: readonly string[];
  /** A line to see the layers' sum against; undefined values interrupt it. */
  outline?: { name: string; values: readonly (number | undefined)[] };
  /** A value that the layers are to be seen against, as a dashed line across. */
  limit?: { name: string; value: number } | undefined;
}

export interface HeatMap {
  title: string;
  rows: { label: string; names: readonly string[] };
  columns: { label: string; names: readonly string[] };
  /** Undefined without a value. */
  cells: readonly (readonly (number | undefined)[])[];
  /** Cells above it are marked. */
  limit?: number | undefined;
}

const WIDTH = 880;
const FRAME = { left: 56, right: 650, top: 40, bottom: 330 } as const;
const COLOURS = [
  "#1f6fb2",
  "#7c3aad",
  "#b3478f",
  "#0f7b4d",
  "#7a8a00",
  "#2a9d8f",
  "#c2410c",
  "#d9982b",
  "#a33",
  "#666",
  "#5b8def",
  "#8c6d46",
] as const;

/** Draws layers over the moments of a run, with the phases below. */
export function stackedAreas({ title, layers, phases, outline, limit }: StackedAreas): string {
  const count = phases.length;
  const totals = phases.map((_, at) => layers.reduce((sum, { values }) => sum + values[at]!, 0));
  const outlined = outline?.values.map((value) => value ?? 0) ?? [];
  const ticks = niceTicks([0, Math.max(1e-9, limit?.value ?? 0, ...totals, ...outlined)], 6);
  const x = (at: number): number => FRAME.left + (at / Math.max(1, count - 1)) * (FRAME.right - FRAME.left);
  const y = (value: number): number => FRAME.bottom - (value / ticks.at(-1)!) * (FRAME.bottom - FRAME.top);
  const below = new Float64Array(count);
  const areas = layers.map(({ values }, index) => {
    const floor = [...below].map((value, at) => `${round(x(at))} ${round(y(value))}`);
    for (const [at, value] of values.entries()) below[at]! += value;
    const ceiling = [...below].map((value, at) => `${round(x(at))} ${round(y(value))}`);
    return `<path d="M${ceiling.join("L")}L${floor.reverse().join("L")}Z" fill="${colourOf(index)}" fill-opacity=".85"/>`;
  });
  const marks = phaseMarks(phases, x);
  return svg(title, FRAME.bottom + 12 + LABEL_HEIGHT * marks.rows, [
    ...ticks.map((tick) => grid(tick, y(tick))),
    ...areas,
    ...marks.drawn,
    ...(outline ? [outlineOf(outline.values, x, y)] : []),
    ...(limit ? [limitLine(limit, y(limit.value))] : []),
    ...legend(layers),
    ...(outline ? [outlineLegend(outline.name, layers.length)] : []),
  ]);
}

/** Draws a line through the values that are there. */
function outlineOf(
  values: readonly (number | undefined)[],
  x: (at: number) => number,
  y: (value: number) => number,
): string {
  const points = values.map((value, at) => {
    const begins = values[at - 1] === undefined;
    return value === undefined ? "" : `${begins ? "M" : "L"}${round(x(at))} ${round(y(value))}`;
  });
  return `<path d="${points.join("")}" ${OUTLINE}/>`;
}

const OUTLINE = 'stroke="currentColor" stroke-width="1.5" fill="none"';

/** The limit's name stands above its line at the left, where a run has not allocated much yet. */
function limitLine({ name }: NonNullable<StackedAreas["limit"]>, y: number): string {
  return `<path d="M${FRAME.left} ${round(y)}H${FRAME.right}" stroke="${LIMIT}" stroke-width="2" stroke-dasharray="6 4" fill="none"/>${text(name, FRAME.left + 6, y - 6)}`;
}

const LIMIT = "var(--chart-limit, #b3261e)";

/** Draws cells coloured from the least to the greatest value, each with its number. */
export function heatMap({ title, rows, columns, cells, limit }: HeatMap): string {
  const values = cells.flat().filter((cell) => cell !== undefined);
  const [least, greatest] = [Math.min(...values), Math.max(...values)];
  const cellWidth = (WIDTH - 90) / columns.names.length;
  const cellHeight = 34;
  const shade = (value: number): number =>
    Math.log(value / least) / Math.max(1e-9, Math.log(greatest / least));
  const drawn = cells.flatMap((row, down) =>
    row.map((value, across) => {
      const [left, top] = [round(80 + across * cellWidth), 56 + down * cellHeight];
      const name = value === undefined ? "–" : value.toFixed(1);
      const isOver = value !== undefined && limit !== undefined && value > limit;
      const fill =
        value === undefined
          ? 'fill="none"'
          : `fill="#c2410c" fill-opacity="${round(0.08 + 0.72 * shade(value))}"`;
      return `<rect x="${left}" y="${top}" width="${round(cellWidth - 2)}" height="${cellHeight - 2}" ${fill} stroke="currentColor" stroke-opacity="${isOver ? ".9" : ".15"}"/>${text(isOver ? `${name} !` : name, left + cellWidth / 2, top + 21, "middle")}`;
    }),
  );
  const height = 60 + rows.names.length * cellHeight;
  return svg(title, height, [
    text(
      `${rows.label} down, ${columns.label} across${limit === undefined ? "" : "; ! is above the limit"}`,
      4,
      34,
    ),
    ...columns.names.map((name, at) => text(name, 80 + (at + 0.5) * cellWidth, 52, "middle")),
    ...rows.names.map((name, at) => text(name, 70, 78 + at * cellHeight, "end")),
    ...drawn,
  ]);
}

function svg(title: string, height: number, parts: readonly string[]): string {
  return `<svg class="chart" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}" xmlns="http://www.w3.org/2000/svg" font-size="13" fill="currentColor">${text(title, 4, 17)}${parts.join("")}</svg>`;
}

function grid(value: number, y: number): string {
  return `<path d="M${FRAME.left} ${round(y)}H${FRAME.right}" stroke="currentColor" stroke-opacity=".15"/>${text(formatTick(value), FRAME.left - 7, y + 4, "end")}`;
}

const LABEL_HEIGHT = 16;
/** Width of a letter at this size, on the wide side. */
const LETTER_WIDTH = 7.2;

/**
 * Draws a line where each phase begins, and its name in the first row below the chart in which the name
 * covers no other.
 */
function phaseMarks(phases: readonly string[], x: (at: number) => number): { drawn: string[]; rows: number } {
  const starts = phases.flatMap((phase, at) => (at > 0 && phase === phases[at - 1] ? [] : [{ phase, at }]));
  const rowEnds: number[] = [];
  const drawn = starts.map(({ phase, at }) => {
    const [left, width] = [x(at), phase.length * LETTER_WIDTH];
    const free = rowEnds.findIndex((end) => end < left);
    const row = free === -1 ? rowEnds.length : free;
    rowEnds[row] = left + width + LETTER_WIDTH;
    const bottom = FRAME.bottom + 8 + LABEL_HEIGHT * row;
    return `<path d="M${round(left)} ${FRAME.top}V${bottom + 4}" stroke="currentColor" stroke-opacity=".5" stroke-dasharray="2 3"/>${text(phase, left + 3, bottom + 6)}`;
  });
  return { drawn, rows: rowEnds.length };
}

function legend(layers: StackedAreas["layers"]): string[] {
  return layers.map(({ name }, index) => {
    const top = FRAME.bottom - 22 * (index + 1);
    return `<rect x="${FRAME.right + 16}" y="${top}" width="14" height="14" fill="${colourOf(index)}"/>${text(name, FRAME.right + 36, top + 12)}`;
  });
}

function outlineLegend(name: string, layers: number): string {
  const middle = FRAME.bottom - 22 * (layers + 1) + 7;
  const [from, to] = [FRAME.right + 16, FRAME.right + 30];
  return `<path d="M${from} ${middle}H${to}" ${OUTLINE}/>${text(name, FRAME.right + 36, middle + 5)}`;
}

function text(content: string, x: number, y: number, anchor = "start"): string {
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${escaped(content)}</text>`;
}

function colourOf(index: number): string {
  return COLOURS[index % COLOURS.length]!;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
