/** A sweep folder as pages see it: plain JSON. */
import type { SweepTable, Trial, TrialState } from "./sweepTable.ts";

export interface SweepSummary {
  id: string;
  /** Path below FOLDER, and its last part. */
  path: string;
  name: string;
  /** running: one of its trials runs. stopped: trials are left, and nothing runs. */
  state: "running" | "finished" | "stopped";
  strategy: SweepTable["strategy"];
  metric: SweepTable["metric"];
  /** Number of trials in each state. */
  trials: Record<TrialState, number>;
  updatedAtMs: number;
  /** The best trial so far, and the number that trials are compared by. */
  best?: { trial: number; value: number };
}

export interface SweepDetail {
  summary: SweepSummary;
  /** Absolute path of the folder. */
  folder: string;
  /** Paths in it are absolute; runId stands for the trial's run in the list, once it has begun. */
  table: Omit<SweepTable, "trials"> & { trials: (Trial & { runId?: string })[] };
}
