/**
 * Regular expressions from files and options. They run in RE2's engine, whose time grows with the length of
 * the text, so that no pattern can hang the program or exhaust its memory, as some do in JavaScript's own
 * engine.
 */
import { RE2JS } from "re2js";
import { messageOf, UserError } from "../errors.ts";
import { quoted } from "./faults.ts";

/** Characters of one pattern; longer ones may take seconds to compile. */
const MOST_CHARACTERS = 1000;
/** Processor time for all patterns of one place; some thousand names take milliseconds. */
const MOST_MS = 1000;

interface MatchOptions {
  /** A file, or the name of an option, for errors. */
  place: string;
  /** Gives the expression that stands for a pattern. */
  sourceOf?: (pattern: string) => string;
  mostCharacters?: number;
}

/**
 * Finds the first pattern that matches somewhere in each name; names without a match are left out. Throws
 * UserError if RE2 can't run one of the patterns.
 */
export function firstMatches(
  patterns: readonly string[],
  names: readonly string[],
  { place, sourceOf = (pattern) => pattern, mostCharacters = MOST_CHARACTERS }: MatchOptions,
): Map<string, string> {
  const startMicros = process.cpuUsage();
  const found = new Map<string, string>();
  for (const pattern of patterns) {
    if (pattern.length > mostCharacters) throw tooLong(pattern, place, mostCharacters);
    const source = sourceOf(pattern);
    const matches = isPlain(pattern) ? new RegExp(source) : compiled(pattern, source, place);
    for (const name of names) {
      const { user, system } = process.cpuUsage(startMicros);
      if ((user + system) / 1000 > MOST_MS) throw tooSlow(pattern, place);
      if (!found.has(name) && matches.test(name)) found.set(name, pattern);
    }
  }
  return found;
}

/** Throws UserError unless RE2 can run the pattern. */
export function checkPattern(pattern: string, place: string): void {
  firstMatches([pattern], [], { place });
}

/**
 * Rewrites what Python's `re` spells in another way than RE2: \Z, {,n}, and a "]" that opens a class of
 * characters.
 */
export function fromPython(pattern: string): string {
  return pattern.replace(PYTHON_PARTS, (part, most: string | undefined) => {
    if (part === "\\Z") return "\\z";
    return most === undefined ? part.replace(/^(\[\^?)\]/, "$1\\]") : `{0,${most}}`;
  });
}

/** Escapes, classes of characters, and {,n}. */
const PYTHON_PARTS = /\\[\s\S]|\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]|\{,(\d+)\}/g;

/** Whether a pattern is a name, which any engine matches at once. */
function isPlain(pattern: string): boolean {
  return /^[\w.]*$/.test(pattern);
}

function compiled(pattern: string, source: string, place: string): { test(name: string): boolean } {
  try {
    return RE2JS.compile(source);
  } catch (cause) {
    const fault = messageOf(cause).replace(/^error parsing regexp: /, "");
    throw new UserError(
      `${place}: ${quoted(pattern)} is not a regular expression that lorafit can use: ${fault}.`,
      {
        fix: "Correct it. The syntax is RE2's: lookahead, lookbehind and backreferences are not supported.",
        cause,
      },
    );
  }
}

function tooLong(pattern: string, place: string, most: number): UserError {
  const message = `${place}: the pattern ${quoted(pattern)} has ${pattern.length} characters; at most ${most} are allowed.`;
  return new UserError(message, { fix: "Shorten it, for example with a group: attention\\.(wqkv|wo)." });
}

function tooSlow(pattern: string, place: string): UserError {
  return new UserError(
    `${place}: its patterns take too long to match; the last one tried was ${quoted(pattern)}.`,
    {
      fix: "Write fewer or simpler patterns.",
    },
  );
}
