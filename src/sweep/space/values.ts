/**
 * Reads the values that a sweep gives an option: one, a list, or a range, in YAML or as words of a flag.
 *
 *   lora_r: [4, 8, 16]                                 --lora-r 4,8,16
 *   learning_rate: {log: [5e-5, 1e-3], count: 5}       --learning-rate log:5e-5..1e-3:5
 *   lora_dropout: {linear: [0, 0.1]}                   --lora-dropout linear:0..0.1
 */
import { z } from "zod";
import { UsageError } from "../../errors.ts";
import type { OptionSpec } from "../../options.ts";

export type Values = { kind: "fixed"; value: unknown } | { kind: "list"; values: unknown[] } | RangeValues;

export interface RangeValues {
  kind: "range";
  scale: Scale;
  from: number;
  to: number;
  /** Values of a grid; undefined: only random draws are possible. */
  count: number | undefined;
  /** Whether the option takes whole numbers only. */
  isWhole: boolean;
}

const SCALES = ["log", "linear"] as const;
type Scale = (typeof SCALES)[number];

/** Placeholders of options whose values are paths, which may have commas in them. */
const PATHS = new Set(["FILE", "FOLDER"]);

const HOW = "Write a range as {log: [5e-5, 1e-3], count: 5} or as log:5e-5..1e-3:5; linear in place of log.";

/** Returns the values of an option, which errors name `spelled`. Throws UsageError for a wrong range. */
export function valuesOf(raw: unknown, spec: OptionSpec, spelled: string): Values {
  const object = plainObject(raw);
  if (object && "values" in object) return listOf(object.values, spec, spelled);
  if (object && spec.numeric && !takesObject(object, spec)) return rangeOf(object, spec, spelled);
  if (Array.isArray(raw) && spec.many) {
    return raw.some(Array.isArray) ? { kind: "list", values: raw } : { kind: "fixed", value: raw };
  }
  const words = Array.isArray(raw) ? raw : [raw];
  const [word] = words;
  if (words.length === 1 && typeof word === "string" && spec.numeric) {
    const range = writtenRange(word);
    if (range) return rangeOf(range, spec, spelled);
  }
  const values = words.flatMap((value) => (isDivisible(value, spec) ? value.split(",") : [value]));
  if (values.length === 0)
    throw new UsageError(`${spelled}: the list is empty.`, { fix: "Write at least one value." });
  const read = values.map((value) => readValue(value, spec));
  return read.length === 1 ? { kind: "fixed", value: read[0] } : { kind: "list", values: read };
}

function listOf(values: unknown, spec: OptionSpec, spelled: string): Values {
  if (!Array.isArray(values) || values.length === 0)
    throw new UsageError(`${spelled}: values takes a list.`, { fix: "Write it as {values: [4, 8]}." });
  return { kind: "list", values: values.map((value) => readValue(value, spec)) };
}

/** Whether an object is a value of the option itself, such as {patience: 3}. */
function takesObject(object: Record<string, unknown>, { takes }: OptionSpec): boolean {
  return takes.includes("{") && !SCALES.some((scale) => scale in object);
}

function isDivisible(value: unknown, { many, value: placeholder }: OptionSpec): value is string {
  return typeof value === "string" && !many && !PATHS.has(placeholder);
}

/** Reads a word as the value that the option takes: a number, true or false. */
function readValue(value: unknown, { numeric, kind }: OptionSpec): unknown {
  if (typeof value !== "string") return value;
  const word = value.trim();
  if (numeric && word !== "" && !Number.isNaN(Number(word))) return Number(word);
  if (kind !== "value" && /^(true|false)$/i.test(word)) return word.toLowerCase() === "true";
  return word;
}

/** Takes "log:5e-5..1e-3:5" apart; undefined if it is not a range. */
function writtenRange(word: string): Record<string, unknown> | undefined {
  const [, scale = "", from, to, count] = /^\s*(\w+):([^:]*?)\.\.([^:]*?)(?::([^:]*))?\s*$/.exec(word) ?? [];
  if (from === undefined || to === undefined) return undefined;
  return { [scale]: [from, to].map(Number), ...(count !== undefined && { count: Number(count) }) };
}

const Ends = z.tuple([z.number(), z.number()]);
const RangeShape = z.union([
  z.strictObject({ log: Ends, count: z.int().min(2).optional() }),
  z.strictObject({ linear: Ends, count: z.int().min(2).optional() }),
]);

function rangeOf(raw: Record<string, unknown>, spec: OptionSpec, spelled: string): Values {
  const got = `(got ${JSON.stringify(raw)})`;
  const parsed = RangeShape.safeParse(raw);
  if (!parsed.success) {
    const names = Object.keys(raw).filter((key) => key !== "count");
    const what = names.every((name) => SCALES.includes(name as Scale))
      ? "a range takes two numbers, and a count of 2 or more"
      : `${names.join(", ")} is not a kind of range`;
    throw new UsageError(`${spelled}: ${what} ${got}.`, { fix: HOW });
  }
  const range = parsed.data;
  const [scale, [from, to]] =
    "log" in range ? (["log", range.log] as const) : (["linear", range.linear] as const);
  if (!(from < to))
    throw new UsageError(`${spelled}: a range rises from its first number ${got}.`, { fix: HOW });
  if (scale === "log" && from <= 0)
    throw new UsageError(`${spelled}: a range with log begins above 0 ${got}.`, { fix: HOW });
  return { kind: "range", scale, from, to, count: range.count, isWhole: spec.whole };
}

/** Digits that values of a range have, so that people can read them and type them again. */
const DIGITS = 3;

/** Returns the value at a share of a range, from 0 to 1. The ends are exact. */
export function valueAt({ scale, from, to, isWhole }: RangeValues, share: number): number {
  if (share <= 0) return from;
  if (share >= 1) return to;
  const value = scale === "log" ? from * (to / from) ** share : from + (to - from) * share;
  const rounded = isWhole ? Math.round(value) : Number(value.toPrecision(DIGITS));
  return Math.min(to, Math.max(from, rounded));
}

/** Returns the values of a grid over a range, without repetition. */
export function gridOf(range: RangeValues & { count: number }): number[] {
  const shares = Array.from({ length: range.count }, (_, index) => index / (range.count - 1));
  return [...new Set(shares.map((share) => valueAt(range, share)))];
}

function plainObject(raw: unknown): Record<string, unknown> | undefined {
  return typeof raw === "object" && raw !== null && !Array.isArray(raw)
    ? (raw as Record<string, unknown>)
    : undefined;
}
