/**
 * Regular expressions from files and options. They run in RE2's engine, whose time grows with the length of
 * the text, so that no pattern can hang the program or exhaust its memory, as some do in JavaScript's own
 * engine.
 */
import { RE2JS } from "re2js";
import { messageOf, UserError } from "../../errors.ts";
import { quoted } from "../faults.ts";

/** Characters of one pattern; longer ones may take a second to compile. */
const MOST_CHARACTERS = 1000;
/** Instructions of all patterns times names: about a second. A model's linear layers take a hundredth. */
const MOST_WORK = 2 ** 24;
/** Compiling a pattern costs about as much as matching it with so many names. */
const COMPILING_NAMES = 256;

interface MatchOptions {
  /** A file, or the name of an option, for errors. */
  place: string;
  /** Gives the expression that stands for a pattern. */
  sourceOf?: (pattern: string) => string;
}

interface Matcher {
  test(name: string): boolean;
  /** Size of its program, in instructions. */
  size: number;
}

/**
 * Finds the first pattern that matches somewhere in each name; names without a match are left out. Throws
 * UserError if RE2 can't run one of the patterns, or if all of them are too much work.
 */
export function firstMatches(
  patterns: readonly string[],
  names: readonly string[],
  { place, sourceOf }: MatchOptions,
): Map<string, string> {
  let work = 0;
  const found = new Map<string, string>();
  for (const pattern of patterns) {
    const matcher = sourceOf
      ? matcherOf(pattern, sourceOf, place)
      : (listed(pattern) ?? matcherOf(pattern, String, place));
    work += matcher.size * (names.length + COMPILING_NAMES);
    if (work > MOST_WORK) throw tooMuch(pattern, place);
    for (const name of names) {
      if (!found.has(name) && matcher.test(name)) found.set(name, pattern);
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

/** Reads `^(?:a|b\.c)$`, the form in which programs write a list of names, however long. */
function listed(pattern: string): Matcher | undefined {
  const [, list] = /^\^\(\?:((?:\w|\\\.|\|)+)\)\$$/.exec(pattern) ?? [];
  const names = list && new Set(list.split("|").map((name) => name.replaceAll("\\.", ".")));
  return names ? { test: (name) => names.has(name), size: 1 } : undefined;
}

function matcherOf(pattern: string, sourceOf: (pattern: string) => string, place: string): Matcher {
  if (pattern.length > MOST_CHARACTERS) throw tooLong(pattern, place);
  const source = sourceOf(pattern);
  if (/^[\w.]*$/.test(pattern)) {
    // a name, which any engine matches at once
    const name = new RegExp(source);
    return { test: (text) => name.test(text), size: PLAIN_SIZE };
  }
  try {
    const program = RE2JS.compile(source);
    return { test: (name) => program.test(name), size: program.programSize() };
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

const PLAIN_SIZE = 8;

function tooLong(pattern: string, place: string): UserError {
  const { length } = pattern;
  return new UserError(
    `${place}: the pattern ${quoted(pattern)} has ${length} characters; at most ${MOST_CHARACTERS} are allowed.`,
    {
      fix: "Shorten it, for example with a group: attention\\.(wqkv|wo).",
    },
  );
}

function tooMuch(pattern: string, place: string): UserError {
  return new UserError(`${place}: its patterns are too much work; ${quoted(pattern)} exceeds the limit.`, {
    fix: "Write fewer or simpler patterns, without counts such as {0,1000}.",
  });
}
