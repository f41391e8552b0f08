/** A run folder as pages and programs see it: plain JSON, in which a number that is not finite is null. */
import type { Category } from "../torch/device.ts";
import type { LoggedFact, NamedSample, PlanFact } from "../train/facts/runFact.ts";
import type { EvalRecord } from "../train/folder/runLog.ts";

/**
 * running: a process holds the lock, also before the first step. finished, interrupted (saved, by Ctrl-C or
 * Stop), failed (with an error): as the run itself has recorded. crashed: the process ended without a word,
 * for example by kill -9.
 */
export type RunState = "running" | "finished" | "interrupted" | "crashed" | "failed";

export interface RunSummary {
  /** Stands for the run in routes: letters, digits, `-` and `_`; stays the same while the folder does. */
  id: string;
  /** Path below FOLDER, with `/`; "." if FOLDER itself is the run. */
  path: string;
  /** Last part of the path. */
  name: string;
  state: RunState;
  /** Message of a failed run. */
  error?: string;
  /** Optimizer steps done. totalSteps is absent until it is known. */
  step: number;
  totalSteps?: number;
  startedAtMs: number;
  /** Time of the last change in the run's logs. */
  updatedAtMs: number;
  /** Milliseconds to go at the speed of the last steps; for a running run. */
  leftMs?: number;
  /** Options of train.yaml, with every default in place; empty before the run is loaded. */
  options: Record<string, unknown>;
  /** Mean losses of equal parts of the run, oldest first; at most 40. */
  lossSparkline: (number | null)[];
  lastLoss?: number | null;
  lastEval?: EvalRecord;
  /** The evaluation with the lowest loss. */
  bestEval?: EvalRecord;
  /** Planned and highest measured peak of the device, and the memory limit. */
  plannedPeakBytes?: number;
  peakBytes?: number;
  limitBytes?: number;
  /** Mean over the last steps. */
  tokensPerSecond?: number;
  /** All steps so far. */
  tokens: number;
  elapsedMs: number;
  /** Times that memory ran out and the run continued in less. */
  stepDowns: number;
  /** Set while a long log is still being read: peak, tokens, time and sparkline are of parts of it. */
  isPartial?: true;
  /** The sweep that the run is a trial of. */
  sweep?: { id: string; trial: number };
}

export interface CheckpointInfo {
  /** Name of the folder: checkpoint-100. */
  name: string;
  step: number;
  writtenAtMs: number;
  bytes: number;
}

/** Something that happened in a run, with its time. A start has no options: RunSummary has them. */
export type RunEvent =
  | Exclude<LoggedFact, { fact: "start" }>
  | Omit<Extract<LoggedFact, { fact: "start" }>, "options">;

/** Steps by column: the arrays have one length. */
export interface StepColumns {
  step: number[];
  loss: (number | null)[];
  gradNorm: (number | null)[];
  lr: (number | null)[];
  tokens: (number | null)[];
  tokensPerSecond: (number | null)[];
  stepMs: (number | null)[];
  dataWaitRatio: (number | null)[];
  epoch: (number | null)[];
  peakBytes: (number | null)[];
  hostPeakBytes: (number | null)[];
  /** Null for steps without a planned peak. */
  plannedPeakBytes: (number | null)[];
  reservedPeakBytes: (number | null)[];
  /** Categories that hold something in any of the steps. */
  peakByCategory: Partial<Record<Category, number[]>>;
}

export interface RunDetail {
  summary: RunSummary;
  /** Absolute path of the output folder. */
  folder: string;
  /** Names of options that differ from their defaults. */
  changedOptions: string[];
  /** The plan that the run has reported last; absent in runs of older versions. */
  plan?: PlanFact;
  checkpoints: CheckpointInfo[];
  /** Absolute paths of the finished adapter and of the adapter with the best evaluation. */
  adapter?: string;
  best?: string;
  commands: RunCommands;
  /** Micro-batches that took longest, the slowest first. */
  slowest: SlowMicroBatch[];
  /** The longest samples that are known, the longest first. */
  longest: NamedSample[];
  headroom?: Headroom;
  /** Whether the run has recorded its memory over a step. */
  hasMemory: boolean;
  /** The process that trains, if it runs. Only a process on this machine can be stopped. */
  process?: { pid: number; host: string; isHere: boolean };
}

/** Command lines to copy. */
export interface RunCommands {
  /** Trains again with the same options. */
  reproduce: string;
  /** Continues a run that has stopped. */
  resume?: string;
  report: string;
  /** Talks with the best or the finished adapter. */
  chat?: string;
}

export interface SlowMicroBatch {
  step: number;
  samples: NamedSample["sample"][];
  tokens: number;
  elapsedMs: number;
}

export interface Headroom {
  limitBytes: number;
  /** Limit minus the planned or the highest measured peak, whichever is higher. */
  spareBytes: number;
  /** Category that holds the most at the peak. */
  largest?: { category: Category; bytes: number };
}
