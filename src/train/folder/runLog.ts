/** What a run writes down beside its checkpoints: its options in train.yaml, and a record a line in steps.jsonl and evals.jsonl. */
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { writeFileWhole } from "../../checkpoint/disk.ts";
import { cannotRead, cannotWrite } from "../../checkpoint/faults.ts";

export interface StepRecord {
  step: number;
  /** Mean over the step's micro-batches of their mean loss; with loss_scale batch, mean over all its labels. */
  loss: number;
  /** Before clipping. */
  gradNorm: number;
  lr: number;
  tokens: number;
  tokensPerSecond: number;
  /** Of the device's pool, and of the host's. */
  peakBytes: number;
  hostPeakBytes: number;
  /** Of the device's pool; with planned_step. */
  plannedPeakBytes?: number;
  /** What a card's caching allocator holds, in use or not; absent on the CPU. The planned one with planned_step. */
  reservedPeakBytes?: number;
  plannedReservedPeakBytes?: number;
  stepMs: number;
  /** Share of the step's time that the device had nothing to do for want of data; on a card that still computes, waiting is hidden. */
  dataWaitRatio: number;
  /** Of the step's last micro-batch, from 0. */
  epoch: number;
}

export interface EvalRecord {
  step: number;
  /** Mean over all labels. */
  loss: number;
  samples: number;
  labelTokens: number;
  /** Share of the answers that are exactly as expected, and mean similarity of text. */
  exactMatch: number;
  anls?: number;
  /** Answers that memory did not suffice for; they count as wrong. Absent where there are none. */
  unanswered?: number;
  /** Samples whose loss memory did not suffice for; the rest alone makes up the loss. Absent where there are none. */
  unevaluated?: number;
}

export const STEPS_FILE = "steps.jsonl";
export const EVALS_FILE = "evals.jsonl";
export const OPTIONS_FILE = "train.yaml";
/** The run's policies, by length, as --policy takes them. */
export const POLICY_FILE = "policy.json";
/** Steps that took more than their plan. */
export const DEFECTS_FILE = "defects.jsonl";

/** The page that `lorafit report` makes of a run. */
export const REPORT_FILE = "report.html";

/** The allocations of a step like one that took more than its plan, beside those planned. */
export const defectTraceFile = (step: number): string => `defect-${step}.json`;

export function isDefectTrace(name: string): boolean {
  return /^defect-\d+\.json$/.test(name);
}

/** Adds a line. */
export async function appendRecord(path: string, record: object): Promise<void> {
  await appendFile(path, `${JSON.stringify(record)}\n`).catch((cause) => {
    throw cannotWrite(path, cause);
  });
}

/** The records of a file; none where it is missing. Left out are a last line that a crash cut, and what it left instead of one. */
export async function readRecords<R extends StepRecord | EvalRecord>(path: string): Promise<R[]> {
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return "";
    throw cannotRead(path, cause);
  });
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.flatMap((line) => recordsIn<R>(line));
}

/** One, or none: a machine that lost its power may have zeros where a line was to be. A log is no reason to refuse to go on. */
function recordsIn<R>(line: string): R[] {
  try {
    return [JSON.parse(line)];
  } catch {
    return [];
  }
}

/** Begins the log at a state: writes the options as a configuration, takes back the records after the state, and returns those of steps before. */
export async function restartLog(
  output: string,
  options: Record<string, unknown>,
  { step, evals }: { step: number; evals: EvalRecord[] },
): Promise<StepRecord[]> {
  const steps = await readRecords<StepRecord>(join(output, STEPS_FILE));
  writeFileWhole(join(output, OPTIONS_FILE), stringify(options));
  const before = steps.filter((record) => record.step <= step);
  writeFileWhole(join(output, STEPS_FILE), linesOf(before));
  writeFileWhole(join(output, EVALS_FILE), linesOf(evals));
  return before;
}

function linesOf(records: object[]): string {
  return records.map((record) => `${JSON.stringify(record)}\n`).join("");
}
