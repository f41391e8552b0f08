/**
 * Where a text stops being JSON, and what JSON would have there. JSON.parse names no line, and often no position either;
 * in a data set written by hand, the place is all that the reader wants to know.
 */

export interface JsonFault {
  /** From 1, as editors count. */
  line: number;
  column: number;
  /** What should be there: "a value", ", or ]". */
  expected: string;
}

type Expected =
  | "a value"
  | "a value or ]"
  | "a name in quotes"
  | "a name in quotes or }"
  | ":"
  | ", or ]"
  | ", or }"
  | "the end";
type Token = { kind: "string" | "scalar" | "[" | "]" | "{" | "}" | "," | ":"; end: number };
type Closer = "]" | "}";

/** The first fault of a text; undefined where it is JSON. */
export function jsonFault(text: string): JsonFault | undefined {
  const open: Closer[] = [];
  let expected: Expected = "a value";
  let at = endOfSpace(text, 0);
  while (at < text.length) {
    const token = tokenAt(text, at);
    if (token === "broken string")
      return faultAt(text, at, "a string that ends with \" on its line, and only JSON's escapes in it");
    const next: Expected | undefined = token && afterToken(expected, token.kind, open);
    if (!token || !next) return faultAt(text, at, expected);
    expected = next;
    at = endOfSpace(text, token.end);
  }
  return expected === "the end" ? undefined : faultAt(text, at, expected);
}

/** What comes after a token where `expected` was due, with the brackets that are open; undefined where it is out of place. */
function afterToken(expected: Expected, kind: Token["kind"], open: Closer[]): Expected | undefined {
  if (kind === open.at(-1) && expected.endsWith(`or ${kind}`)) {
    open.pop();
    return afterValue(open);
  }
  switch (expected) {
    case "a value":
    case "a value or ]":
      if (kind === "string" || kind === "scalar") return afterValue(open);
      return afterOpening(kind, open);
    case "a name in quotes":
    case "a name in quotes or }":
      return kind === "string" ? ":" : undefined;
    case ":":
      return kind === ":" ? "a value" : undefined;
    case ", or ]":
      return kind === "," ? "a value" : undefined;
    case ", or }":
      return kind === "," ? "a name in quotes" : undefined;
    case "the end":
      return undefined;
  }
}

function afterOpening(kind: Token["kind"], open: Closer[]): Expected | undefined {
  if (kind !== "[" && kind !== "{") return undefined;
  open.push(kind === "[" ? "]" : "}");
  return kind === "[" ? "a value or ]" : "a name in quotes or }";
}

function afterValue(open: readonly Closer[]): Expected {
  const closer = open.at(-1);
  return closer ? `, or ${closer}` : "the end";
}

function tokenAt(text: string, at: number): Token | "broken string" | undefined {
  const character = text[at] as string;
  if (character === '"') return stringAt(text, at);
  if ("[]{},:".includes(character)) return { kind: character as Token["kind"], end: at + 1 };
  const scalar = /(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.+-])/y;
  scalar.lastIndex = at;
  return scalar.test(text) ? { kind: "scalar", end: scalar.lastIndex } : undefined;
}

/** By hand: a pattern's backtracking has a limit that long strings reach. */
function stringAt(text: string, start: number): Token | "broken string" {
  const escaped = /\\(?:["\\/bfnrt]|u[\da-fA-F]{4})/y;
  for (let at = start + 1; at < text.length; at++) {
    const character = text[at] as string;
    if (character === '"') return { kind: "string", end: at + 1 };
    if (character < " ") break;
    if (character !== "\\") continue;
    escaped.lastIndex = at;
    if (!escaped.test(text)) break;
    at = escaped.lastIndex - 1;
  }
  return "broken string";
}

function endOfSpace(text: string, start: number): number {
  let at = start;
  while (at < text.length && " \t\n\r".includes(text[at] as string)) at++;
  return at;
}

function faultAt(text: string, at: number, expected: string): JsonFault {
  const before = text.slice(0, at);
  const lineStart = before.lastIndexOf("\n") + 1;
  return { line: before.split("\n").length, column: at - lineStart + 1, expected };
}
