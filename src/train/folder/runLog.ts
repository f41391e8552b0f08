/**
 * The logs of a run beside its checkpoints: options in train.yaml; steps, evaluations and answers as a JSON
 * record a line.
 */
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { cannotRead, cannotWrite } from "../../checkpoint/faults.ts";
import { writeFileWhole } from "../../checkpoint/files/disk.ts";
import type { SampleSource } from "../../data/samples/sample.ts";
import type { Category } from "../../torch/device.ts";
import type { Metrics } from "../evaluate/scores.ts";

/** A line of steps.jsonl. */
export interface StepRecord {
  step: number;
  /**
   * Mean over the step's micro-batches of their mean loss; with loss_scale batch, mean over all its labels.
   */
  loss: number;
  /** Norm of the step's gradient before clipping. */
  gradNorm: number;
  lr: number;
  /** Text and picture tokens of the step. */
  tokens: number;
  tokensPerSecond: number;
  /** Peaks of the device's pool and of the host's, in bytes. */
  peakBytes: number;
  hostPeakBytes: number;
  /** Bytes of the device's pool at its peak, without categories that hold nothing. Absent in older runs. */
  peakByCategory?: Partial<Record<Category, number>>;
  /** Planned peak of the device's pool, in bytes; with planned_step. */
  plannedPeakBytes?: number;
  /**
   * Bytes that a card's caching allocator holds, in use or not; absent on the CPU. The planned ones with
   * planned_step.
   */
  reservedPeakBytes?: number;
  plannedReservedPeakBytes?: number;
  stepMs: number;
  /**
   * Share of the step's time that the device had nothing to do because data was missing; a card that still
   * computes hides the wait.
   */
  dataWaitRatio: number;
  /** Epoch of the step's last micro-batch, from 0. */
  epoch: number;
  /**
   * Processes that took the step, and the share of its time for which they waited for the slowest on average.
   * Absent for one process by itself.
   */
  ranks?: number;
  waitRatio?: number;
  /**
   * The micro-batch that took longest, with its samples. Absent in older runs, and after a resume within the
   * step.
   */
  slowest?: { samples: SampleSource[]; tokens: number; elapsedMs: number };
}

/** A line of evals.jsonl. */
export interface EvalRecord {
  step: number;
  /** Mean over all labels. */
  loss: number;
  samples: number;
  labelTokens: number;
  /** Share of the answers that are exactly as expected, and mean similarity of text from 0 to 1. */
  exactMatch: number;
  anls?: number;
  /** Metrics of the answers by name, except those that have nothing to score. Absent in older runs. */
  metrics?: Metrics;
  /** Answers that did not fit in memory; they count as wrong. Absent if there are none. */
  unanswered?: number;
  /** Samples whose loss did not fit in memory; the loss is that of the others. Absent if there are none. */
  unevaluated?: number;
}

/** A line of answers.jsonl: one answer of an evaluation. */
export interface AnswerRecord {
  step: number;
  sample: SampleSource;
  /** Paths of the pictures that the question shows. */
  pictures: string[];
  /** Texts; absent if the samples are ids and there is no tokenizer. */
  question?: string;
  expected?: string;
  answer?: string;
  /** Whether the answer did not fit in memory. */
  isMissing: boolean;
  /** 1 or 0. */
  exactMatch: number;
  /** Similarity of text from 0 to 1. */
  anls?: number;
  /** Every metric of this answer by its name. Absent in older runs. */
  metrics?: Metrics;
}

/** Folders of the finished adapter, and of the adapter with the best evaluation. */
export const ADAPTER_FOLDER = "adapter";
export const BEST_FOLDER = "best";

export const STEPS_FILE = "steps.jsonl";
export const EVALS_FILE = "evals.jsonl";
export const ANSWERS_FILE = "answers.jsonl";
/** Plan, start, notices, leaner policies, defects, checkpoints and the end. */
export const FACTS_FILE = "facts.jsonl";
export const OPTIONS_FILE = "train.yaml";
/** The run's policies by length class, as --policy accepts them. */
export const POLICY_FILE = "policy.json";
/** Steps that took more memory than their plan. */
export const DEFECTS_FILE = "defects.jsonl";

/** Folder of TensorBoard's event files. */
export const TENSORBOARD_FOLDER = "tensorboard";
/** Records for MLflow that are not sent yet; the server's run, and how far the records are sent. */
export const MLFLOW_SPOOL_FILE = "mlflow.jsonl";
export const MLFLOW_STATE_FILE = "mlflow.json";

/** The page that `lorafit report` makes of a run. */
export const REPORT_FILE = "report.html";

/** Names the file with the allocations of a step that took more than its plan. */
export const defectTraceFile = (step: number): string => `defect-${step}.json`;

export function isDefectTrace(name: string): boolean {
  return /^defect-\d+\.json$/.test(name);
}

/** Appends records to a file, a line each. */
export async function appendRecords(path: string, records: readonly object[]): Promise<void> {
  if (records.length === 0) return;
  await appendFile(path, linesOf(records)).catch((cause) => {
    throw cannotWrite(path, cause);
  });
}

/**
 * Reads the records of a file; none if the file is missing. Skips lines that are not JSON: a crash may cut
 * the last line, and a machine that lost its power may leave zeros instead of one.
 */
export async function readRecords<R extends StepRecord | EvalRecord | AnswerRecord>(
  path: string,
): Promise<R[]> {
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return "";
    throw cannotRead(path, cause);
  });
  const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
  return lines.flatMap((line) => {
    try {
      return [JSON.parse(line) as R];
    } catch {
      return [];
    }
  });
}

/**
 * Begins the logs at a state of the run: writes the options as a configuration, drops what was logged after
 * the state, and returns the records of the steps before.
 */
export async function restartLog(
  output: string,
  options: Record<string, unknown>,
  { step, evals }: { step: number; evals: EvalRecord[] },
): Promise<StepRecord[]> {
  const [steps, answers] = [join(output, STEPS_FILE), join(output, ANSWERS_FILE)];
  const before = (await readRecords<StepRecord>(steps)).filter((record) => record.step <= step);
  const answered = await readRecords<AnswerRecord>(answers);
  const evaluated = new Set(evals.map((record) => record.step));
  writeFileWhole(join(output, OPTIONS_FILE), stringify(options));
  writeFileWhole(steps, linesOf(before));
  writeFileWhole(join(output, EVALS_FILE), linesOf(evals));
  if (answered.length > 0)
    writeFileWhole(answers, linesOf(answered.filter((record) => evaluated.has(record.step))));
  return before;
}

function linesOf(records: readonly object[]): string {
  return records.map((record) => `${JSON.stringify(record)}\n`).join("");
}
