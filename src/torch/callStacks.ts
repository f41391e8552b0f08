/** Call stacks in lorafit's own source, for records of memory that say which line asked for it. */
import { existsSync, readFileSync } from "node:fs";
import { SourceMap } from "node:module";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";

/** A line of lorafit's source, the innermost of a stack first. */
export interface Frame {
  /** Name of the function. */
  name: string;
  /** Path from the root of the package: "src/nn/linear.ts". */
  filename: string;
  line: number;
}

const MOST_FRAMES = 40;
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** Folders of the code that computes. Those above it say nothing about an allocation. */
const COMPUTING = /^(src|dist)\/(data|models|nn|step|torch)\//;
/** Files of it that every allocation goes through. */
const PLUMBING = /^\w+\/torch\/(callStacks|device|handle|ops\.gen|tensor|trace)\./;

/** Stacks and frames seen before, by their text: a step makes a million frames of some hundred lines. */
const stacks = new Map<string, readonly Frame[]>();
const frames = new Map<string, Frame | undefined>();
const maps = new Map<string, SourceMap | undefined>();

/** Returns the lines of lorafit's source that are being run. The same stack is the same array. */
export function callStack(): readonly Frame[] {
  const before = Error.stackTraceLimit;
  Error.stackTraceLimit = MOST_FRAMES;
  const { stack = "" } = new Error();
  Error.stackTraceLimit = before;
  let known = stacks.get(stack);
  if (!known) {
    known = stack
      .split("\n")
      .slice(1)
      .flatMap((text) => frameOf(text) ?? []);
    stacks.set(stack, known);
  }
  return known;
}

/** Forgets the stacks that were seen. */
export function forgetStacks(): void {
  for (const known of [stacks, frames, maps]) known.clear();
}

/** Reads a line of a stack: "    at linear (file:///.../dist/nn/linear.js:12:5)". */
function frameOf(text: string): Frame | undefined {
  if (!frames.has(text)) frames.set(text, readFrame(text));
  return frames.get(text);
}

function readFrame(text: string): Frame | undefined {
  const found = /^\s*at (?:(.*?) \()?(?:file:\/\/)?(\/.*?):(\d+):(\d+)\)?$/.exec(text);
  if (!found) return undefined; // Node's own, or native
  const [, name = "", path = "", line = "0", column = "0"] = found;
  const file = relative(ROOT, path);
  if (!COMPUTING.test(file) || PLUMBING.test(file)) return undefined;
  const place = inSource(path, Number(line), Number(column)) ?? { filename: file, line: Number(line) };
  return {
    name: name.replace(/^(new|async|Object\.|Generator\.|Module\.) ?/, "") || "(anonymous)",
    ...place,
  };
}

/** Finds a line of a compiled file in the source that it was compiled from. */
function inSource(path: string, line: number, column: number): Omit<Frame, "name"> | undefined {
  if (!maps.has(path)) maps.set(path, mapOf(path));
  const entry = maps.get(path)?.findEntry(line - 1, column - 1);
  if (!entry || !("originalSource" in entry)) return undefined;
  const source = new URL(entry.originalSource, `file://${path}`);
  return { filename: relative(ROOT, fileURLToPath(source)), line: entry.originalLine + 1 };
}

function mapOf(path: string): SourceMap | undefined {
  const file = `${path}.map`;
  return existsSync(file) ? new SourceMap(JSON.parse(readFileSync(file, "utf8"))) : undefined;
}
