/** Places of values along an axis. */
import { linearTicks, logTicks } from "../../lib/ticks.ts";

export interface Scale {
  /** Returns pixels. */
  place(value: number | string): number;
  ticks: (number | string)[];
  /** Distance between ticks; absent on a logarithmic axis and for words. */
  tickStep?: number;
}

/**
 * Returns a scale for the values: words get a place each in their order, numbers a little room at both ends. Ticks
 * are round numbers of `unit`; few values on a logarithmic axis are the ticks themselves.
 */
export function scaleOf(
  values: readonly (number | string)[],
  [from, to]: readonly [number, number],
  { isLogarithmic, ticks, unit = 1 }: { isLogarithmic: boolean; ticks: number; unit?: number },
): Scale {
  if (values.some((value) => typeof value === "string")) return wordScale(values.map(String), from, to);
  const numbers = values as readonly number[];
  const change = isLogarithmic ? Math.log : (value: number): number => value;
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)].map(change) as [number, number];
  const room = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  const [first, last] = [low - room, high + room];
  const place = (value: number | string): number =>
    from + ((change(Number(value)) - first) / (last - first)) * (to - from);
  if (values.length === 0) return { place: () => from, ticks: [] };
  const each = [...new Set(numbers)];
  if (isLogarithmic)
    return { place, ticks: each.length <= ticks ? each : logTicks(Math.exp(first), Math.exp(last), ticks) };
  const round = linearTicks(first / unit, last / unit, ticks).map((tick) => tick * unit);
  return { place, ticks: round, tickStep: round.length > 1 ? round[1]! - round[0]! : 1 };
}

function wordScale(words: readonly string[], from: number, to: number): Scale {
  const each = [...new Set(words)].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const width = (to - from) / Math.max(1, each.length);
  return { place: (word) => from + (each.indexOf(String(word)) + 0.5) * width, ticks: each };
}
