/** Lets PEFT merge an adapter, where Python has torch and peft. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { UserError } from "../../errors.ts";

/** Differences of one linear between PEFT's merge and lorafit's. */
export interface LinearDifference {
  linear: string;
  /** Weights that differ, and all weights. */
  differing: number;
  weights: number;
  /** Largest difference, and the largest weight. */
  largest: number;
  largestWeight: number;
}

export interface PeftMerge {
  /** Versions. */
  peft: string;
  torch: string;
  linears: LinearDifference[];
}

export interface PeftPaths {
  /** The base checkpoint, the adapter, lorafit's merged checkpoint, and the folder to write. */
  model: string;
  adapter: string;
  merged: string;
  out: string;
}

const SCRIPT = fileURLToPath(new URL("../../../python/merge_with_peft.py", import.meta.url));
const MOST_OUTPUT_BYTES = 2 ** 26;

const run = promisify(execFile);

/** Returns why this Python can't merge with PEFT; undefined if it can. */
export async function missingInPython(python: string): Promise<string | undefined> {
  try {
    await run(python, ["-c", "import peft, safetensors, torch"]);
    return undefined;
  } catch (cause) {
    const { code, stderr = "" } = cause as { code?: unknown; stderr?: string };
    if (code === "ENOENT") return `there is no ${python}`;
    return `${python} can't import torch and peft: ${lastLine(stderr)}`;
  }
}

/** Writes a checkpoint that PEFT has merged. Throws UserError with the last line of what Python says. */
export async function mergeWithPeft(
  python: string,
  { model, adapter, merged, out }: PeftPaths,
  signal: AbortSignal,
): Promise<PeftMerge> {
  try {
    const options = { maxBuffer: MOST_OUTPUT_BYTES, signal };
    const { stdout } = await run(python, [SCRIPT, model, adapter, merged, out], options);
    return JSON.parse(lastLine(stdout)) as PeftMerge;
  } catch (cause) {
    if (signal.aborted) throw signal.reason;
    const said = lastLine((cause as { stderr?: string }).stderr ?? "");
    throw new UserError(`PEFT could not merge the adapter: ${said}`, { cause });
  }
}

function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1) ?? "";
}
