/** An interval of a run in optimizer steps, or in time: 100, "10min". */
import { z } from "zod";
import { count } from "../../options.ts";

const MS = { s: 1e3, sec: 1e3, m: 6e4, min: 6e4, h: 3.6e6, d: 8.64e7 } as const;
/** A number above 0, with a unit of time; a whole number without one counts steps, as flags give it. */
const FORM = /^(?:[1-9]\d*|(?=[\d.]*[1-9])(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d))$/;

export const interval = z.union([count, z.stringFormat("interval", FORM)]).meta({
  value: "N|TIME",
  takes: "a number of steps, or a time such as 90s, 10min or 1h",
});

export type Interval = z.output<typeof interval>;

/** Returns steps as a number, however they were written; a time stays as it is. */
export function withSteps(given: Interval): Interval {
  return typeof given === "string" && /^\d+$/.test(given) ? Number(given) : given;
}

/** Returns the length of an interval of time in milliseconds; undefined for steps. */
export function intervalMs(given: Interval): number | undefined {
  const [, amount, unit] = typeof given === "string" ? (FORM.exec(given) ?? []) : [];
  return unit === undefined ? undefined : Number(amount) * MS[unit as keyof typeof MS];
}
