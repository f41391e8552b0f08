/**
 * The table of a sweep: sweep.json in its folder, which `lorafit sweep` writes whole after each change. Every
 * trial is a run of its own in a folder beside it.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../checkpoint/files/disk.ts";
import { UserError } from "../errors.ts";

export const SWEEP_FILE = "sweep.json";

export const STRATEGIES = ["grid", "random", "halving"] as const;

/** `planned`: has not begun, or waits for its next part. `too-large`: does not fit the memory limit. */
export const TRIAL_STATES = ["planned", "too-large", "running", "finished", "failed"] as const;

/** The metric that needs no answers: the mean loss over all labels of an evaluation. */
export const EVAL_LOSS = "evalLoss";

const count = z.int().min(0);

const Trial = z.object({
  /** Number of the trial, from 1. */
  trial: z.int().min(1),
  /** The options that differ between trials, with this trial's values. */
  options: z.record(z.string(), z.unknown()),
  state: z.enum(TRIAL_STATES),
  /** Loss of the best evaluation so far by the sweep's metric; null before the first. */
  evalLoss: z.number().nullable(),
  /** Metrics of that evaluation's answers by name: exact_match, anls and so on. */
  metrics: z.record(z.string(), z.number()),
  /** Peak of device memory in bytes: planned and measured; null if it is not known. */
  plannedPeakBytes: z.number().nullable(),
  peakBytes: z.number().nullable(),
  /** Folder of the adapter of that evaluation; null before the first. */
  adapter: z
    .string()
    .regex(/^trial-\d+\/[\w-]+$/)
    .nullable(),
  /** Folder of the trial's run; it is missing before the run begins. */
  run: z.string().regex(/^trial-\d+$/),
  /** Optimizer steps done, and of a whole run; null if it is not known. */
  step: count,
  totalSteps: count.nullable(),
  /** Step of the best evaluation. */
  bestStep: count.nullable(),
  /** With halving: the round that the trial has reached, from 0. */
  rung: count.optional(),
  /** Planned time of a step without evaluations, in milliseconds; null if it is not planned yet. */
  plannedStepMs: z.number().nullable().default(null),
  /** Time that its processes have taken so far, in milliseconds. */
  elapsedMs: z.number().min(0),
  /** Changes with which a trial that is too large would fit. */
  waysOut: z.array(z.string()).optional(),
  /** Why it failed. */
  error: z.string().optional(),
});

export type Trial = z.output<typeof Trial>;
export type TrialState = Trial["state"];

const SweepTable = z.object({
  version: z.literal(1),
  strategy: z.enum(STRATEGIES),
  /** The number that trials are compared by: evalLoss, or a name in their metrics. */
  metric: z.object({ name: z.string(), better: z.enum(["lower", "higher"]) }),
  /** Names of the options that differ between trials, in the order of the table's columns. */
  varied: z.array(z.string()),
  trials: z.array(Trial),
  /** Number of the best trial so far; its adapter is linked as `best`. */
  best: z.int().min(1).nullable(),
  /** Source of the planned times; null before the first plan. */
  timesBy: z.string().nullable().default(null),
  /** The `lorafit train` line that trains the best trial again; null before there is one. */
  reproduce: z.string().nullable(),
  /** Whether nothing is left to do. */
  isDone: z.boolean(),
});

export type SweepTable = z.output<typeof SweepTable>;

/**
 * Reads the table of a sweep. Paths in it hold from the working folder. Throws UserError if the folder holds
 * no sweep.
 */
export function readSweep(folder: string): SweepTable {
  const table = readSweepFile(folder);
  const placed = ({ adapter, run, ...trial }: Trial): Trial => {
    return { ...trial, run: join(folder, run), adapter: adapter === null ? null : join(folder, adapter) };
  };
  return { ...table, trials: table.trials.map(placed) };
}

/** Reads the table as it is in the file: with paths from the sweep's folder. */
export function readSweepFile(folder: string): SweepTable {
  const file = join(folder, SWEEP_FILE);
  const fix = "Name the --output folder of a lorafit sweep.";
  if (!existsSync(file)) throw new UserError(`${folder} holds no sweep: ${file} is missing.`, { fix });
  const parsed = SweepTable.safeParse(readJsonObject(file));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UserError(`${file} is not the table of a sweep: ${issue?.path.join(".")}: ${issue?.message}.`, {
    fix,
  });
}

/** Returns the number that a trial is compared by; undefined if it has none yet. */
export function scoreOf({ metric: { name } }: Pick<SweepTable, "metric">, trial: Trial): number | undefined {
  const { evalLoss, metrics } = trial;
  return name === EVAL_LOSS ? (evalLoss ?? undefined) : metrics[name];
}
