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
 * | GET /api/live?list=&runs=id:cursor,...   | Server-Sent Events, see LiveEvents                         |
 * | POST /api/runs/:id/stop                  | StopAnswer                                                 |
 * | GET /api/sweeps/:id                      | SweepDetail                                                |
 * | GET /api/picture?run=&path=&view=&width= | a JPEG or PNG of a picture of the run's data or answers    |
 *
 * Any route may answer with a status from 400 up and ApiError. Requests carry the cookie that the first visit
 * with `?token=` sets, or `Authorization: Bearer TOKEN`. Requests that change something are POST with
 * `Content-Type: application/json` from the page's own origin.
 */
import type { Cursor } from "../../runs/logTail.ts";
import type {
  CheckpointInfo,
  Headroom,
  RunCommands,
  RunDetail,
  RunEvent,
  RunState,
  RunSummary,
  SlowMicroBatch,
  StepColumns,
} from "../../runs/runView.ts";
import type { Trial, TrialState } from "../../runs/sweepTable.ts";
import type { SweepDetail, SweepSummary } from "../../runs/sweepView.ts";
import type { Policy } from "../../step/policy.ts";
import type { Category } from "../../torch/device.ts";
import type { NamedSample, PlanFact } from "../../train/facts/runFact.ts";
import type { AnswerRecord, EvalRecord, StepRecord } from "../../train/folder/runLog.ts";

export type {
  AnswerRecord,
  Category,
  CheckpointInfo,
  Cursor,
  EvalRecord,
  Headroom,
  NamedSample,
  PlanFact,
  Policy,
  RunCommands,
  RunDetail,
  RunEvent,
  RunState,
  RunSummary,
  SlowMicroBatch,
  StepColumns,
  StepRecord,
  SweepDetail,
  SweepSummary,
  Trial,
  TrialState,
};

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
  /** Pass it on as `list` of GET /api/live, which then sends later changes alone. */
  version: string;
}

// ----------------------------------------------------------------------------------------------- Run

/** Records of a log after a cursor. A page that passes `next` on gets what has come since. */
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

/**
 * Memory over one step, for a stacked area: at each moment the bytes of each category. The planned timeline
 * is the outline over it.
 */
export interface MemoryProfile {
  step: number;
  /** Tokens of the micro-batch that was recorded: the step's last one, with the update. */
  tokens?: number;
  /** The device's memory limit, less what counts against it and is in no category: a card's context. */
  limitBytes?: number;
  measured?: MemoryTimeline;
  planned?: MemoryTimeline;
}

export interface MemoryTimeline {
  /** Unit of the x axis; that of the planned timeline is the measured one's. */
  axis: "allocation" | "ms";
  x: number[];
  /** Live bytes of the device by category at each x; all of one length. */
  byCategory: Partial<Record<Category, number[]>>;
  peakBytes: number;
  /** Phases of the step from left to right: vision, forward, loss, backward, update. */
  phases?: { name: string; from: number; to: number }[];
}

// ---------------------------------------------------------------------------------------------- Live

/**
 * Server-Sent Events of GET /api/live, by event name. Its query: `list` with RunList's version, for later
 * changes of the list (`list=1`: all of it first); `runs` with `id:cursor` for each run to follow, where
 * cursor is LiveCursor, or empty for all of its logs. At most 64 runs. Each event's `id` holds the place in
 * all that is followed, so a browser that connects again continues there. An event comes within 1 s of its
 * fact.
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

// ------------------------------------------------------------------------------------------ Pictures

/**
 * Query of GET /api/picture. `path` is one of AnswerRecord's pictures, or a path below FOLDER. view: `plain`
 * is the picture scaled down to `width` pixels (default 960, at most 2000); `tiles` is the padded picture
 * with tile borders, numbers and the global view, as `lorafit preview` draws it at the run's hd_num.
 */
export interface PictureQuery {
  run: string;
  path: string;
  view?: "plain" | "tiles";
  width?: number;
}
