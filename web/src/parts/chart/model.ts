/** The data of a chart. */
import type { KindName } from "./kinds.ts";

/** Colours of styles/tokens.css. */
export type Tone = "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "text" | "muted" | "bad" | "warn" | "good";

export interface Series {
  label: string;
  /** A value for each of the chart's `xs`; null where there is none. */
  values: readonly (number | null)[];
  tone: Tone;
  /**
   * line: a curve (the default); faint: a thin one behind the others; dots: a dot for each value, joined;
   * area: stacked on the areas before it; outline: a dashed line above areas.
   */
  draw?: "line" | "faint" | "dots" | "area" | "outline";
}

export interface Axis {
  label: string;
  kind: KindName;
  isLogarithmic?: boolean;
  /** The axis begins at 0; always so with areas. */
  fromZero?: boolean;
}

export interface ChartModel {
  title: string;
  x: Axis;
  y: Axis;
  /** Ascending. */
  xs: readonly number[];
  series: readonly Series[];
  /** Vertical lines with a triangle, for example where memory ran out; or with their label above them. */
  marks?: readonly { at: number; label: string; tone: Tone; isLabelled?: boolean }[];
  /** Horizontal lines, for example a limit. */
  levels?: readonly { at: number; label: string; tone: Tone }[];
  /** Values hold until the next x, instead of being joined by straight lines. */
  isStepped?: boolean;
  /** Index of the x whose values the legend shows while there is no cursor. Default: the last. */
  rest?: number;
  /** Charts with the same key share the cursor and zoom along x. */
  sync?: string;
}

/**
 * Returns the values as they are drawn: an area's with those of the areas before it added, so that it lies on
 * top of them.
 */
export function stackedValues(series: readonly Series[]): (readonly (number | null)[])[] {
  let below: readonly (number | null)[] | undefined;
  return series.map(({ draw, values }) => {
    if (draw !== "area") return values;
    const lower = below;
    const sum: readonly (number | null)[] = lower
      ? values.map((value, index) => (value ?? 0) + (lower[index] ?? 0))
      : values;
    below = sum;
    return sum;
  });
}

/** Returns at most `most` indices from 0 to `count` - 1, evenly spread, with both ends. */
export function spreadIndices(count: number, most: number): number[] {
  if (count <= most) return Array.from({ length: count }, (_, index) => index);
  return Array.from({ length: most }, (_, index) => Math.round((index * (count - 1)) / (most - 1)));
}

/** Returns the value at an index, or the last one before it: curves that share an axis have gaps. */
export function lastKnown(values: readonly (number | null)[], index: number): number | undefined {
  for (let at = Math.min(index, values.length - 1); at >= 0; at--) {
    const value = values[at];
    if (value !== null && value !== undefined) return value;
  }
  return undefined;
}
