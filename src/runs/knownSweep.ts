/** A sweep folder whose table is read again when its file has changed. */
import { lstatSync } from "node:fs";
import { basename, join } from "node:path";
import { UserError } from "../errors.ts";
import type { FoundFolder } from "./findRuns.ts";
import { idOf, type KnownRun } from "./knownRun.ts";
import { holderIn } from "./lockIn.ts";
import {
  EVAL_LOSS,
  readSweep,
  SWEEP_FILE,
  type SweepTable,
  scoreOf,
  TRIAL_STATES,
  type TrialState,
} from "./sweepTable.ts";
import type { SweepDetail, SweepSummary } from "./sweepView.ts";

/** A longer file is no table of a sweep. */
const MOST_BYTES = 2 ** 26;

const EMPTY: SweepTable = {
  ...{ version: 1, strategy: "grid", metric: { name: EVAL_LOSS, better: "lower" } },
  ...{ varied: [], trials: [], best: null, reproduce: null, timesBy: null, isDone: false },
};

export class KnownSweep {
  readonly id: string;
  readonly path: string;
  readonly folder: string;
  #table: SweepTable = EMPTY;
  #mark = "";
  #updatedAtMs = 0;
  #isLocked = false;
  #trials = new Map<string, number>();

  constructor({ path, folder }: Pick<FoundFolder, "path" | "folder">) {
    this.id = idOf(path);
    this.path = path;
    this.folder = folder;
  }

  /** Reads the table if its file has changed. Returns whether anything has. */
  update(): boolean {
    const before = this.#mark;
    this.#isLocked = holderIn(this.folder)?.mayRun ?? false;
    try {
      const status = lstatSync(join(this.folder, SWEEP_FILE));
      const mark = [status.mtimeMs, status.size, status.ino].join();
      if (!before.startsWith(mark) && status.isFile() && status.size <= MOST_BYTES) this.#read();
      this.#updatedAtMs = status.mtimeMs;
      this.#mark = [mark, this.#isLocked].join(" ");
    } catch (thrown) {
      if (!(thrown instanceof UserError) && !(thrown as NodeJS.ErrnoException).code) throw thrown;
      this.#mark = "unreadable"; // keeps the last table that could be read
    }
    return this.#mark !== before;
  }

  /** Returns the number of the trial whose run lies in a folder. */
  trialOf(folder: string): number | undefined {
    return this.#trials.get(folder);
  }

  summary(isRunning: (folder: string) => boolean): SweepSummary {
    const { strategy, metric, trials, best, isDone } = this.#table;
    const winner = trials.find(({ trial }) => trial === best);
    const value = winner && scoreOf(this.#table, winner);
    const count = (state: TrialState): number => trials.filter((trial) => trial.state === state).length;
    const runs = this.#isLocked || trials.some(({ run }) => isRunning(run));
    return {
      ...{ id: this.id, path: this.path, name: basename(this.path === "." ? this.folder : this.path) },
      state: runs ? "running" : isDone ? "finished" : "stopped",
      ...{ strategy, metric },
      trials: Object.fromEntries(TRIAL_STATES.map((state) => [state, count(state)])) as Record<
        TrialState,
        number
      >,
      updatedAtMs: this.#updatedAtMs,
      ...(winner && value !== undefined && { best: { trial: winner.trial, value } }),
    };
  }

  detail(runIn: (folder: string) => KnownRun | undefined): SweepDetail {
    const trials = this.#table.trials.map((trial) => {
      const run = runIn(trial.run);
      return { ...trial, ...(run && { runId: run.id }) };
    });
    const isRunning = (folder: string): boolean => runIn(folder)?.isRunning ?? false;
    return { summary: this.summary(isRunning), folder: this.folder, table: { ...this.#table, trials } };
  }

  #read(): void {
    this.#table = readSweep(this.folder);
    this.#trials = new Map(this.#table.trials.map(({ run, trial }) => [run, trial]));
  }
}
