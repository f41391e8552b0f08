/**
 * Reads command-line arguments into raw option values, which parseOptions checks, and remembers how each was
 * typed.
 */
import { parseArgs } from "node:util";
import { UsageError } from "../../errors.ts";
import type { OptionSpec } from "../../options.ts";
import { didYouMean } from "./didYouMean.ts";

export interface Given {
  raw: Record<string, unknown>;
  /** Flags as they were typed, such as --lora_r, by key. */
  spelled: Map<string, string>;
  /** Words that belong to no flag. */
  positionals: string[];
}

/** One flag on the command line, with the words up to the next. */
interface Occurrence {
  name: string;
  typed: string;
  /** Joined by "=", or the word after a flag that needs one. */
  value: string | undefined;
  following: string[];
}

/**
 * Understands --lora-r 8, --lora_r=8, --no-shuffle, aliases, and lists as --data a b or --data a --data b.
 */
export function readFlags(argv: string[], specs: OptionSpec[]): Given {
  const names = namesOf(specs);
  const { occurrences, leading } = occurrencesOf(tokensOf(argv, names));
  const given: Given = { raw: {}, spelled: new Map(), positionals: leading };
  for (const occurrence of occurrences) {
    const { spec, negated } = resolve(occurrence, names);
    const words = negated ? ["false"] : takeWords(spec, occurrence);
    setOption(given, spec, occurrence.typed, valueFrom(spec, words, occurrence.typed));
    given.positionals.push(...occurrence.following);
  }
  return given;
}

/** Returns every name of every option, without leading dashes: lora-r, lora_r and aliases. */
export function namesOf(specs: OptionSpec[]): Map<string, OptionSpec> {
  const names = new Map<string, OptionSpec>();
  for (const spec of specs) {
    for (const name of [spec.key, ...spec.aliases]) {
      names.set(name, spec).set(name.replaceAll("_", "-"), spec);
    }
  }
  return names;
}

/** Splits arguments. A flag that needs a value takes the next word as it is, such as -1. */
function tokensOf(args: string[], names: Map<string, OptionSpec>) {
  const takers = [...names].filter(([, { kind }]) => kind === "value");
  const options = Object.fromEntries(
    takers.map(([name]) => [name, { type: "string", multiple: true } as const]),
  );
  return parseArgs({ args, options, strict: false, tokens: true }).tokens;
}

function occurrencesOf(tokens: ReturnType<typeof tokensOf>): {
  occurrences: Occurrence[];
  leading: string[];
} {
  const occurrences: Occurrence[] = [];
  const leading: string[] = [];
  let terminated = false;
  for (const token of tokens) {
    if (token.kind === "option") {
      const { name, rawName: typed, value } = token;
      if (value?.startsWith("--") && !token.inlineValue) throw needsValue(typed);
      occurrences.push({ name, typed, value, following: [] });
    } else if (token.kind === "option-terminator") {
      terminated = true;
    } else {
      (terminated ? leading : (occurrences.at(-1)?.following ?? leading)).push(token.value);
    }
  }
  return { occurrences, leading };
}

function resolve(
  { name, typed }: Occurrence,
  names: Map<string, OptionSpec>,
): { spec: OptionSpec; negated: boolean } {
  const spec = names.get(name);
  if (spec) return { spec, negated: false };
  const positive = /^no[-_](.+)$/.exec(name)?.[1];
  const negatable = positive === undefined ? undefined : names.get(positive);
  if (negatable && negatable.kind !== "value") return { spec: negatable, negated: true };
  const near = didYouMean(
    name,
    [...names].map(([known, { flag }]) => [known, flag]),
  );
  throw new UsageError(`There is no flag ${typed}.`, {
    fix: near ? `Did you mean ${near}?` : "--help shows the flags of a command.",
  });
}

/** Returns the words of an option: its own value, and the following words that belong to it. */
function takeWords({ kind, many }: OptionSpec, { value, following }: Occurrence): string[] {
  const own = value === undefined ? [] : [value];
  if (many) return [...own, ...following.splice(0)];
  const [next] = following;
  const takesNext = own.length === 0 && next !== undefined && (kind === "either" || isBoolean(next));
  return takesNext && kind !== "value" ? following.splice(0, 1) : own;
}

function valueFrom({ kind, many, numeric }: OptionSpec, words: string[], typed: string): unknown {
  const [word] = words;
  if (kind !== "value") return word === undefined ? true : isBoolean(word) ? /true/i.test(word) : word;
  if (word === undefined) throw needsValue(typed);
  if (many) return words;
  return numeric && word.trim() !== "" && !Number.isNaN(Number(word)) ? Number(word) : word;
}

function setOption({ raw, spelled }: Given, { key, many }: OptionSpec, typed: string, value: unknown): void {
  const before = raw[key];
  if (before !== undefined && !many && before !== value) {
    const first = spelled.get(key);
    const who =
      first === typed ? `${typed} is given twice, with` : `${first} and ${typed} give the same option`;
    throw new UsageError(`${who} two values, ${before} and ${value}.`, { fix: "Leave one of them out." });
  }
  raw[key] = many && Array.isArray(before) ? [...before, ...(value as unknown[])] : value;
  spelled.set(key, typed);
}

/** Python spells them True and False. */
function isBoolean(word: string): boolean {
  return /^(true|false)$/i.test(word);
}

function needsValue(typed: string): UsageError {
  return new UsageError(`${typed} needs a value.`, { fix: "--help shows the value of each flag." });
}
