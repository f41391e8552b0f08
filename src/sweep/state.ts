/**
 * The state of a sweep: sweep.json in its folder, written whole after each change, so that a sweep that is
 * killed continues where it was.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject, writeFileWhole } from "../checkpoint/files/disk.ts";
import { UserError } from "../errors.ts";
import { readSweepFile, SWEEP_FILE, type SweepTable, type Trial } from "../runs/sweepTable.ts";
import type { Combination } from "./space/draw.ts";

/** The settings of a sweep as plain JSON: it continues only with the same ones. */
export type Asked = Record<string, unknown>;

export interface SweepState {
  folder: string;
  asked: Asked;
  table: SweepTable;
}

/** Options that may change when a sweep continues: they do not change its results. */
const LIMITS = ["memory", "host_memory"];
const FREE = new Set([...LIMITS, "device", "threads", "save_every", "keep_checkpoints", "planned_step"]);

/** Returns the state of a sweep in the folder, or a new one. Throws UserError if another sweep is there. */
export function openState(
  folder: string,
  asked: Asked,
  begun: () => Pick<SweepTable, "strategy" | "metric" | "varied"> & { trials: readonly Combination[] },
): SweepState {
  const file = join(folder, SWEEP_FILE);
  if (existsSync(file)) {
    const table = readSweepFile(folder);
    const { asked: before = {} } = readJsonObject(file) as { asked?: Asked };
    refuseChanges(folder, before, asked);
    const state = { folder, asked, table };
    const hasOtherLimits = LIMITS.some((key) => JSON.stringify(before[key]) !== JSON.stringify(asked[key]));
    if (hasOtherLimits) planAgain(state, (trial) => trial.step === 0 && trial.state !== "failed");
    return state;
  }
  refuseOthersFolder(folder);
  const { trials, ...about } = begun();
  const table: SweepTable = {
    ...{ version: 1, ...about, trials: trials.map(newTrial) },
    ...{ best: null, reproduce: null, timesBy: null, isDone: false },
  };
  const state = { folder, asked, table };
  saveState(state);
  return state;
}

export function saveState({ folder, asked, table }: SweepState): void {
  writeFileWhole(join(folder, SWEEP_FILE), `${JSON.stringify({ ...table, asked }, undefined, 1)}\n`);
}

/** Lets the trials that `isMeant` names be planned again, and begin or continue where they are. */
export function planAgain(state: SweepState, isMeant: (trial: Trial) => boolean): void {
  for (const trial of state.table.trials.filter(isMeant)) {
    delete trial.error;
    delete trial.waysOut;
    Object.assign(trial, { state: "planned", totalSteps: trial.step > 0 ? trial.totalSteps : null });
    state.table.isDone = false;
  }
  saveState(state);
}

function newTrial(options: Combination, index: number): Trial {
  const trial = index + 1;
  return {
    ...{ trial, options, state: "planned", evalLoss: null, metrics: {} },
    ...{ plannedPeakBytes: null, peakBytes: null, adapter: null, run: `trial-${trial}` },
    ...{ step: 0, totalSteps: null, bestStep: null, rung: 0, plannedStepMs: null, elapsedMs: 0 },
  };
}

function refuseChanges(folder: string, before: Asked, now: Asked): void {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])];
  const changes = keys
    .filter((key) => !FREE.has(key) && JSON.stringify(before[key]) !== JSON.stringify(now[key]))
    .map((key) => `${key} was ${shown(before[key])}, is ${shown(now[key])}`);
  if (changes.length === 0) return;
  throw new UserError(`${folder} holds a sweep with other settings:\n  ${changes.join("\n  ")}`, {
    fix: "Continue that sweep with its own settings, or pass another --output.",
  });
}

function shown(value: unknown): string {
  return value === undefined ? "not given" : JSON.stringify(value);
}

/** Files that a sweep has before its table: its lock, and what was not written to its end. */
const OF_BEGINNING = /^(run\.lock.*|\.writing-.*)$/;

function refuseOthersFolder(folder: string): void {
  const others = existsSync(folder) ? readdirSync(folder).filter((name) => !OF_BEGINNING.test(name)) : [];
  if (others.length === 0) return;
  throw new UserError(`${folder} has other files in it, such as ${others[0]}, and is not a sweep's folder.`, {
    fix: "Pass another --output.",
  });
}
