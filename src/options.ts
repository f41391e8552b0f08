/**
 * Reads options from strict zod schemas. Flags, configuration files, --help, documentation and error messages
 * all come from a schema's JSON Schema, which carries the meta data of every option.
 */
import { z } from "zod";
import { joinedErrors, parseBytes, UsageError, type UserError } from "./errors.ts";

declare module "zod" {
  interface GlobalMeta {
    /** Sentence for --help, the documentation and editors. */
    help?: string;
    /** Heading of the option in --help. */
    group?: string;
    /** Placeholder of the value in --help: FOLDER. */
    value?: string;
    /** Right values in words, if type and limits do not say it. */
    takes?: string;
    /** Advice about a wrong value. */
    advice?: string;
    /** Other names of the option, such as the official ones. */
    alias?: string[];
  }
}

/** An option for flags and texts. */
export interface OptionSpec {
  /** The name in a configuration and in code: lora_r. */
  key: string;
  /** The name as a flag: --lora-r. */
  flag: string;
  /** switch: true or false; value: needs a value; either: a switch that may have a value. */
  kind: "switch" | "value" | "either";
  numeric: boolean;
  /** Whether it takes whole numbers only. */
  whole: boolean;
  /** Whether the value is a list. */
  many: boolean;
  required: boolean;
  default: unknown;
  /** Right values in words: "a whole number, 1 or more". */
  takes: string;
  help: string;
  group: string;
  /** Placeholder of the value in --help. */
  value: string;
  aliases: string[];
  advice: string | undefined;
}

type JsonSchema = z.core.JSONSchema.JSONSchema;
type JsonOption = JsonSchema & Limits & z.GlobalMeta;

interface Limits {
  type?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

export const count = z.int().positive();
export const text = z.string().min(1);

/** One file or several of samples; a list either way. */
export const dataFiles = z
  .union([text, z.array(text).min(1)])
  .transform((files) => [files].flat())
  .meta({ value: "FILE", takes: "a file, or a list of files" });

/** Accepts "32GiB" or a number of bytes, and gives a number. */
export const byteAmount = z
  .union([text, z.number()])
  .transform((amount, context) => checked(context, () => parseBytes(String(amount))))
  .meta({ value: "AMOUNT", takes: "an amount of memory, as 32GiB, 300MiB or 8GB" });

/** Puts every option of a shape under one heading. */
export function group<S extends Record<string, z.ZodType>>(name: string, shape: S): S {
  const entries = Object.entries(shape).map(([key, schema]) => [
    key,
    schema.meta({ ...schema.meta(), group: name }),
  ]);
  return Object.fromEntries(entries) as S;
}

/** Returns body(), or adds an issue if it throws: for transforms. */
export function checked<T>(context: z.core.$RefinementCtx, body: () => T): T {
  try {
    return body();
  } catch (thrown) {
    context.addIssue({ code: "custom", message: String(thrown) });
    return z.NEVER;
  }
}

/** Refuses two options that state the same thing: for superRefine. */
export function refuseTogether(
  options: Record<string, unknown>,
  pairs: readonly (readonly [string, string])[],
  context: z.core.$RefinementCtx,
): void {
  for (const [first, second] of pairs) {
    if (options[first] === undefined || options[second] === undefined) continue;
    const message = `goes without ${first}`;
    context.addIssue({
      code: "custom",
      path: [second],
      message,
      params: { conflictsWith: first },
    });
  }
}

/** Refuses an option that means nothing without one of others: for superRefine. */
export function refuseLone(
  options: Record<string, unknown>,
  key: string,
  others: readonly string[],
  context: z.core.$RefinementCtx,
): void {
  if (options[key] === undefined || others.some((other) => options[other] !== undefined)) return;
  const message = `needs ${others.join(" or ")}`;
  context.addIssue({ code: "custom", path: [key], message, params: { needs: others } });
}

/** Returns the input of a schema as JSON Schema, with the meta data of every option. */
export function jsonSchemaOf(schema: z.ZodType): JsonSchema {
  return z.toJSONSchema(schema, { io: "input" });
}

/** Returns the options of a schema in its order. */
export function optionSpecs(schema: z.ZodType): OptionSpec[] {
  const { properties = {}, required = [] } = jsonSchemaOf(schema);
  return Object.entries(properties).map(([key, property]) =>
    specOf(key, property as JsonOption, required.includes(key)),
  );
}

/** Returns the flag of an option: --lora-r for lora_r. */
export function flagOf(key: string): string {
  return `--${key.replaceAll("_", "-")}`;
}

/**
 * Returns checked options with their defaults. Throws one UsageError for all wrong ones, each named as
 * `spell` writes it: "--lora-r" or "train.yaml:3:9: lora_r". `before` are errors that were found earlier;
 * they come first.
 */
export function parseOptions<S extends z.ZodType>(
  schema: S,
  raw: Record<string, unknown>,
  spell: (key: string) => string = (key) => key,
  before: readonly UserError[] = [],
): z.output<S> {
  const parsed = schema.safeParse(raw);
  const found = parsed.success
    ? []
    : wrongOptions(parsed.error.issues, optionSpecs(schema), raw, spell).values();
  const [first, ...others] = [...before, ...found];
  if (first) throw joinedErrors([first, ...others], "options");
  return parsed.data as z.output<S>;
}

/** Returns an error for each wrong option, by its key, as parseOptions words them; empty if all are right. */
export function optionErrors(
  schema: z.ZodType,
  raw: Record<string, unknown>,
  spell: (key: string) => string,
): Map<string, UserError> {
  const parsed = schema.safeParse(raw);
  return parsed.success ? new Map() : wrongOptions(parsed.error.issues, optionSpecs(schema), raw, spell);
}

/** Returns an error for each wrong option, in the order of the issues. */
function wrongOptions(
  issues: readonly z.core.$ZodIssue[],
  specs: OptionSpec[],
  raw: Record<string, unknown>,
  spell: (key: string) => string,
): Map<string, UserError> {
  const errors = new Map<string, UserError>();
  for (const issue of issues) {
    if (issue.code === "unrecognized_keys") {
      for (const key of issue.keys) errors.set(key, unknownOption(spell(key), specs));
    } else {
      const key = String(issue.path[0]);
      if (!errors.has(key)) errors.set(key, wrongOption(key, issue, specs, raw, spell));
    }
  }
  return errors;
}

function unknownOption(spelled: string, specs: OptionSpec[]): UserError {
  return new UsageError(`${spelled} is not an option.`, {
    fix: `Options are ${specs.map(({ key }) => key).join(", ")}.`,
  });
}

function wrongOption(
  key: string,
  issue: z.core.$ZodIssue,
  specs: OptionSpec[],
  raw: Record<string, unknown>,
  spell: (key: string) => string,
): UserError {
  const spec = specs.find((one) => one.key === key) as OptionSpec;
  if (issue.code === "custom" && issue.params?.conflictsWith) {
    const other = spell(issue.params.conflictsWith);
    return new UsageError(`${spell(key)} cannot be given together with ${other}.`, {
      fix: "Leave one of them out.",
    });
  }
  if (issue.code === "custom" && issue.params?.needs) {
    const others = specs.filter((other) => issue.params?.needs.includes(other.key));
    const ways = listOfChoices(others.map(({ flag, value }) => `${flag} ${value}`));
    return new UsageError(`${spell(key)} needs ${listOfChoices(others.map((other) => spell(other.key)))}.`, {
      fix: `Pass ${ways} too.`,
    });
  }
  if (raw[key] === undefined) {
    return new UsageError(`${spell(key)} is missing: ${asPhrase(spec.help)}.`, {
      fix: `Pass ${spec.flag} ${spec.value}.`,
    });
  }
  const value = valueAt(raw, issue.path);
  const got =
    spec.numeric && typeof value === "string" ? `the text ${JSON.stringify(value)}` : JSON.stringify(value);
  return new UsageError(`${spell(key)} takes ${spec.takes} (got ${got}).`, {
    ...(spec.advice && { fix: spec.advice }),
  });
}

/** Returns a help text as the end of a sentence: "Model folder." as "model folder". */
export function asPhrase(help: string): string {
  const isWord = /^[A-Z][a-z]/.test(help);
  return (isWord ? help.charAt(0).toLowerCase() + help.slice(1) : help).replace(/\.$/, "");
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((value, step) => (value as Record<PropertyKey, unknown>)[step], raw);
}

function specOf(key: string, option: JsonOption, required: boolean): OptionSpec {
  const forms = formsOf(option);
  const types = new Set(forms.flatMap(({ type }) => type ?? []));
  const numeric = !types.has("string") && (types.has("number") || types.has("integer"));
  const valued = types.size > (types.has("boolean") ? 1 : 0);
  return {
    key,
    flag: flagOf(key),
    kind: types.has("boolean") ? (valued ? "either" : "switch") : "value",
    numeric,
    whole: numeric && !types.has("number"),
    many: types.has("array"),
    required,
    default: option.default,
    takes: option.takes ?? takesOf(option, numeric),
    help: option.help ?? "",
    group: option.group ?? "Options",
    value: option.value ?? (option.enum ? option.enum.join("|") : numeric ? "N" : "TEXT"),
    aliases: option.alias ?? [],
    advice: option.advice,
  };
}

/** Returns the alternatives of a schema, or the schema itself. */
function formsOf(schema: JsonSchema): JsonSchema[] {
  return (schema.anyOf ?? [schema]).map((form) => form as JsonSchema);
}

function takesOf(option: JsonOption, numeric: boolean): string {
  if (option.enum) return listOfChoices(option.enum.map(String));
  if (option.type === "boolean") return "true or false";
  if (!numeric) return "a text";
  return `${option.type === "integer" ? "a whole number" : "a number"}${limitsOf(option)}`;
}

/** Joins choices: "a, b or c". */
export function listOfChoices(choices: string[]): string {
  return choices.length < 2 ? choices.join() : `${choices.slice(0, -1).join(", ")} or ${choices.at(-1)}`;
}

function limitsOf({ type, minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Limits): string {
  const above = exclusiveMinimum === undefined ? undefined : `above ${exclusiveMinimum}`;
  const least = type === "integer" && exclusiveMinimum !== undefined ? exclusiveMinimum + 1 : stated(minimum);
  const most = stated(maximum);
  const upper =
    most !== undefined ? `to ${most}` : exclusiveMaximum !== undefined && `to below ${exclusiveMaximum}`;
  if (upper) return ` from ${least ?? above} ${upper}`;
  if (least !== undefined) return `, ${least} or more`;
  return above ? ` ${above}` : "";
}

/** Returns a limit that someone set; undefined for the limit of all whole numbers. */
function stated(limit: number | undefined): number | undefined {
  return limit !== undefined && Math.abs(limit) === Number.MAX_SAFE_INTEGER ? undefined : limit;
}
