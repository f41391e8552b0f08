/** The table of a sweep as it is now, also while its trials run. */
import { join } from "node:path";
import { readSweepFile, type SweepTable, scoreOf, type Trial } from "../runs/sweepTable.ts";
import { lockHolder } from "../train/folder/runLock.ts";
import { bestOf } from "./halving.ts";
import { readResults } from "./results.ts";

export interface SweepNow {
  table: SweepTable;
  /** Whether a process runs the sweep. */
  isRunning: boolean;
}

/**
 * Reads a sweep's folder; trials that run have what their logs say. Paths hold from the working folder.
 * Throws UserError if the folder holds no sweep.
 */
export async function sweepNow(folder: string): Promise<SweepNow> {
  const table = readSweepFile(folder);
  const isRunning = lockHolder(folder)?.mayRun ?? false;
  const trials: Trial[] = [];
  for (const trial of table.trials) {
    const now = trial.state === "running" ? await readResults(folder, trial.run, table) : {};
    const isLeft = trial.state === "running" && !isRunning;
    trials.push({ ...trial, ...now, ...(isLeft && { state: "planned" }) });
  }
  return { table: { ...table, trials: trials.map((trial) => placed(folder, trial)) }, isRunning };
}

/** Returns a trial with its paths from the working folder, as scripts get it. */
export function placed(folder: string, trial: Trial): Trial {
  const { adapter, run } = trial;
  return { ...trial, run: join(folder, run), adapter: adapter === null ? null : join(folder, adapter) };
}

/** Returns the trials from the best to the worst; those without a score are last, in their order. */
export function ranked(table: SweepTable): Trial[] {
  const scored = table.trials.map((trial) => ({
    trial: trial.trial,
    score: trial.state === "failed" ? undefined : scoreOf(table, trial),
  }));
  const order = bestOf(scored, scored.length, table.metric.better);
  const rank = ({ trial }: Trial): number => {
    const at = order.indexOf(trial);
    return at < 0 ? order.length + trial : at;
  };
  return table.trials.toSorted((one, other) => rank(one) - rank(other));
}
