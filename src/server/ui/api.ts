/**
 * The HTTP API of the page, as types alone; every body is plain JSON. `server/ui` answers with these types
 * and `web/` reads them.
 *
 * Units: `...Bytes` are bytes, `...Ms` are milliseconds (`...AtMs` since 1970), `...Ratio` are shares from 0
 * to 1. A number that is not finite is null.
 *
 * | route                                    | returns                                                    |
 * | ---------------------------------------- | ---------------------------------------------------------- |
 * | GET /api/runs                            | RunList                                                    |
 * | GET /api/runs/:id                        | RunDetail                                                  |
 * | GET /api/runs/:id/steps?from=&points=    | StepPage: all steps after the cursor `from`, or about      |
 * |                                          | `points` of them, which keep every bucket's extreme losses |
 * | GET /api/runs/:id/evals?from=            | LogPage of EvalRecord                                      |
 * | GET /api/runs/:id/answers?from=          | LogPage of AnswerRecord                                    |
 * | GET /api/runs/:id/events?from=           | LogPage of RunEvent                                        |
 * | GET /api/runs/:id/memory                 | MemoryProfile; 404 if the run has recorded none            |
 * | GET /api/live?list=1&runs=id:cursor,...  | Server-Sent Events, see LiveEvents                         |
 * | POST /api/runs/:id/stop                  | StopAnswer                                                 |
 * | GET /api/sweeps/:id                      | SweepDetail                                                |
 * | GET /api/picture?run=&path=&view=&width= | a JPEG or PNG of a picture of the run's data or answers    |
 *
 * Any route may answer with a status from 400 up and ApiError. Requests carry the cookie that the first visit
 * with `?token=` sets, or `Authorization: Bearer TOKEN`. Requests that change something are POST with
 * `Content-Type: application/json` from the page's own origin.
 */
import type { Policy } from "../../step/policy.ts";
import type { Category } from "../../torch/device.ts";
import type {
  CheckpointFact,
  DefectFact,
  EndFact,
  LeanerFact,
  NamedSample,
  NoticeFact,
  PlanFact,
  StartFact,
} from "../../train/facts/runFact.ts";
import type { AnswerRecord, EvalRecord, StepRecord } from "../../train/folder/runLog.ts";

export type { AnswerRecord, Category, EvalRecord, NamedSample, PlanFact, Policy, StepRecord };

/** Body of every answer with a status from 400 up. */
export interface ApiError {
  /** States what is wrong, with the value in it. */
  error: string;
  /** Command or setting that helps, a line each. */
  fix?: string;
}

// ---------------------------------------------------------------------------------------------- Runs

export interface RunList {
  /** FOLDER of `lorafit ui`, absolute. */
  folder: string;
  /** Newest first. */
  runs: RunSummary[];
  sweeps: SweepSummary[];
}

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
  /** Mean over the last 20 steps. */
  tokensPerSecond?: number;
  /** All steps so far. */
  tokens: number;
  elapsedMs: number;
  /** Times that memory ran out and the run continued in less. */
  stepDowns: number;
  sweep?: { id: string; trial: string };
}

// ----------------------------------------------------------------------------------------------- Run

export interface RunDetail {
  summary: RunSummary;
  /** Absolute path of the output folder. */
  folder: string;
  /** Names of options that differ from their defaults. */
  changedOptions: string[];
  /** The plan that the run has reported last; absent in runs of older versions. */
  plan?: PlanFact;
  /** Policies from the shortest length class to the longest. */
  policies: { upToTokens: number | null; policy: Policy; words: string }[];
  checkpoints: CheckpointInfo[];
  /** Absolute paths of the finished adapter and of the adapter with the lowest evaluation loss. */
  adapter?: string;
  best?: string;
  /** Command lines to copy. */
  commands: {
    /** Trains again with the same options. */
    reproduce: string;
    /** Continues a run that has stopped. */
    resume?: string;
    report: string;
    /** Talks with the finished adapter. */
    chat?: string;
  };
  events: LogPage<RunEvent>;
  /** Micro-batches that took longest, the slowest first. */
  slowest: { step: number; samples: NamedSample["sample"][]; tokens: number; elapsedMs: number }[];
  /** The samples with the most tokens among the slowest micro-batches and the plan, the longest first. */
  longest: NamedSample[];
  headroom?: Headroom;
  /** Whether GET /api/runs/:id/memory has an answer. */
  hasMemory: boolean;
  /** The process that trains, if it runs. Only a process on this machine can be stopped. */
  process?: { pid: number; host: string; isHere: boolean };
}

export interface CheckpointInfo {
  /** Name of the folder: checkpoint-100. */
  name: string;
  step: number;
  writtenAtMs: number;
  bytes: number;
}

export interface Headroom {
  limitBytes: number;
  /** Limit minus the highest measured peak, or minus the planned peak before the first step. */
  spareBytes: number;
  /** Category that holds the most at the peak, apart from weights: the one where a change frees most. */
  largest?: { category: Category; bytes: number };
  /** Settings that would free most memory, the best first; empty if they are not known. */
  levers: Lever[];
}

/** A change of one option that frees device memory. */
export interface Lever {
  option: string;
  from: unknown;
  to: unknown;
  /** Bytes of device memory; an estimate from the run's own peak by category. */
  freesBytes: number;
  /** Sentence on the price. */
  price: string;
}

/** Something that happened in a run, with its time. */
export type RunEvent = { atMs: number } & (
  | (Omit<StartFact, "options" | "stepsBefore"> & { fact: "start" })
  | PlanFact
  | NoticeFact
  | LeanerFact
  | DefectFact
  | CheckpointFact
  | EndFact
);

/** Place in a log; opaque. A page that passes it on gets what has come since. */
export type Cursor = string;

export interface LogPage<R> {
  records: R[];
  next: Cursor;
}

export interface StepPage {
  columns: StepColumns;
  next: Cursor;
  /** Steps in the log up to `next`; more than the columns have if `points` was given. */
  total: number;
}

/** Steps by column: the arrays have one length. */
export interface StepColumns {
  step: number[];
  loss: (number | null)[];
  gradNorm: (number | null)[];
  lr: number[];
  tokens: number[];
  tokensPerSecond: number[];
  stepMs: number[];
  dataWaitRatio: number[];
  epoch: number[];
  peakBytes: number[];
  hostPeakBytes: number[];
  /** Null for steps without a planned peak. */
  plannedPeakBytes: (number | null)[];
  reservedPeakBytes: (number | null)[];
  /** Categories that hold something in any of the steps. */
  peakByCategory: Partial<Record<Category, number[]>>;
}

/**
 * Memory over one step, for a stacked area: at each event of the timeline the bytes of each category. The
 * planned timeline is the outline over it.
 */
export interface MemoryProfile {
  step: number;
  measured?: MemoryTimeline;
  planned?: MemoryTimeline;
}

export interface MemoryTimeline {
  /** Unit of the x axis. */
  axis: "allocation" | "ms";
  x: number[];
  /** Live bytes by category at each x; all of one length. */
  byCategory: Partial<Record<Category, number[]>>;
  peakBytes: number;
  /** Phases of the step from left to right: vision, forward, loss, backward, update. */
  phases?: { name: string; from: number; to: number }[];
}

// ---------------------------------------------------------------------------------------------- Live

/**
 * Server-Sent Events of GET /api/live, by event name. Its query: `list=1` for changes of the list; `runs`
 * with `id:cursor` for each run to follow, where cursor is LiveCursor or empty (from the beginning of its
 * logs). Each event's `id` holds the place in all followed logs, so a browser that connects again
 * continues there.
 */
export interface LiveEvents {
  /** Runs that are new or have changed, and those that are gone; sweeps only if one has changed. */
  list: { changed: RunSummary[]; removed: string[]; sweeps?: SweepSummary[] };
  /** Records that have been appended to the logs of one run. */
  run: LiveRun;
}

export interface LiveRun {
  id: string;
  /** Place after what this event holds. */
  cursor: LiveCursor;
  /** Set if the run began anew or went back to a checkpoint: forget its history; this holds all of it. */
  reset?: true;
  steps?: StepColumns;
  evals?: EvalRecord[];
  answers?: AnswerRecord[];
  events?: RunEvent[];
  summary?: RunSummary;
  /** Checkpoints after a change of them. */
  checkpoints?: CheckpointInfo[];
}

/**
 * Cursors of steps, evals, answers and events, joined with `.`: `[steps, evals, answers, events].join(".")`.
 * A cursor itself holds no dot, comma or colon; an empty part stands for the beginning of that log.
 */
export type LiveCursor = string;

/** Stopping is as Ctrl-C: the run saves a checkpoint after its micro-batch, and ends. */
export interface StopAnswer {
  /** Whether the signal was sent; false if the run had ended by then. */
  stopping: boolean;
}

// -------------------------------------------------------------------------------------------- Sweeps

export interface SweepSummary {
  id: string;
  path: string;
  name: string;
  /** Whether a process works on it. */
  state: "running" | "finished" | "stopped";
  strategy: string;
  /** Name of the metric that decides: "loss", or a metric's name. */
  metric: string;
  trials: Record<TrialState, number>;
  updatedAtMs: number;
  best?: { trial: string; value: number };
}

export type TrialState = "planned" | "too-large" | "running" | "finished" | "failed";

export interface SweepDetail {
  summary: SweepSummary;
  /** Absolute path of the folder. */
  folder: string;
  /** Options that the sweep varies. */
  varied: string[];
  trials: SweepTrial[];
  /** Command that trains the winner again. */
  reproduce?: string;
}

/** A trial as `lorafit sweep show --json` prints it, with its run. */
export interface SweepTrial {
  trial: string;
  /** Values of the varied options. */
  options: Record<string, unknown>;
  state: TrialState;
  evalLoss?: number | null;
  metrics?: Record<string, number | null>;
  plannedPeakBytes?: number;
  peakBytes?: number;
  adapter?: string;
  /** Reason why it is too large or has failed, and what would help. */
  note?: string;
  /** Its run in RunList, once it has begun. */
  run?: string;
}

// ------------------------------------------------------------------------------------------ Pictures

/**
 * Query of GET /api/picture. `path` is a path or data URI as a sample names it. view: `plain` is the picture
 * scaled down to `width` pixels (default 960, at most 2000); `tiles` is the padded picture with tile borders,
 * numbers and the global view, as `lorafit preview` draws it at the run's hd_num.
 */
export interface PictureQuery {
  run: string;
  path: string;
  view?: "plain" | "tiles";
  width?: number;
}
