/**
 * Runs a sweep: plans every trial, runs those that fit, one at a time on each device, and links the adapter
 * of the best one. It may be stopped at any moment, even killed: the same command continues it.
 */
import { resolve } from "node:path";
import { UserError } from "../errors.ts";
import type { SweepTable, Trial } from "../runs/sweepTable.ts";
import type { Objective } from "../train/evaluate/best.ts";
import { lockOutput } from "../train/folder/runLock.ts";
import { type TrainInput, trainOptions } from "../train/options/options.ts";
import { stepsOfRatio } from "../train/options/schedule.ts";
import { type Slot, slotsOf } from "./devices.ts";
import { type Rung, rungsOf, singleRung } from "./halving.ts";
import type { SweepOptions } from "./options.ts";
import { planTrials } from "./planning/planTrials.ts";
import type { TrialPlan } from "./planning/trialPlan.ts";
import { metricOf } from "./results.ts";
import { isOpen, left, type Sweep, type SweepHooks } from "./running.ts";
import { runRung } from "./runRung.ts";
import { gridTrials, randomTrials, sizeOf } from "./space/draw.ts";
import { type Asked, openState, planAgain, type SweepState, saveState } from "./state.ts";
import { optionsOf, withWholePaths } from "./trialOptions.ts";

const DEFAULT_TRIALS = 16;
const DEFAULT_SEED = 42;

/** Runs a sweep to its end, or until the signal. Returns its table; paths in it are from the folder. */
export async function runSweep(options: SweepOptions, hooks: SweepHooks): Promise<SweepTable> {
  const folder = resolve(options.output);
  const unlock = lockOutput(folder);
  try {
    const state = openSweep(options, folder);
    if (options.retry) planAgain(state, ({ state: now }) => now === "failed" || now === "too-large");
    if (!state.table.trials.some(isOpen)) return state.table;
    const { slots, refused } = await planned(options, state, hooks);
    if (hooks.signal.aborted) return state.table;
    const sweep: Sweep = { options, state, slots, rungs: rungsFor(options, state.table), hooks };
    hooks.take({ fact: "planned", table: state.table, slots, rungs: sweep.rungs, ...left(sweep) });
    for (const trial of refused)
      hooks.take({ fact: "end", trial, isBest: false, isBehind: false, ...left(sweep) });
    for (const rung of sweep.rungs.keys()) {
      await runRung(sweep, rung);
      if (hooks.signal.aborted) return state.table;
    }
    state.table.isDone = true;
    saveState(state);
    return state.table;
  } finally {
    unlock();
  }
}

function openSweep(options: SweepOptions, folder: string): SweepState {
  const { strategy, space } = options;
  return openState(folder, askedOf(options), () => ({
    strategy,
    metric: metricOf((space.base.metric ?? "loss") as Objective),
    varied: space.axes.map(({ key }) => key),
    trials: trialsOf(options),
  }));
}

/** Returns the options as a sweep remembers them, to continue only the same one. */
function askedOf({ strategy, trials, reduction_factor, min_steps, space }: SweepOptions): Asked {
  const axes = space.axes.map(({ key, values }) => [key, values.kind === "list" ? values.values : values]);
  return JSON.parse(
    JSON.stringify({
      ...withWholePaths(space.base),
      ...Object.fromEntries(axes),
      ...{ strategy, trials, ...(strategy === "halving" && { reduction_factor, min_steps }) },
    }),
  );
}

function trialsOf({ strategy, trials, space }: SweepOptions): Trial["options"][] {
  const { seed = DEFAULT_SEED } = space.base;
  const isDrawn = strategy === "random" || trials !== undefined || !Number.isFinite(sizeOf(space));
  if (strategy === "grid" || !isDrawn) return gridTrials(space);
  return randomTrials(space, trials ?? DEFAULT_TRIALS, seed as number);
}

/** Plans the trials that have no plan yet. Returns the devices for them, and those that can't run. */
async function planned(
  options: SweepOptions,
  state: SweepState,
  hooks: SweepHooks,
): Promise<{ slots: Slot[]; refused: Trial[] }> {
  const { base } = options.space;
  const { environment, signal, take } = hooks;
  const open = state.table.trials.filter((trial) => isOpen(trial) && trial.totalSteps === null);
  const device = options.devices?.[0] === "cpu" ? { device: "cpu" } : {};
  const plans: TrialPlan[] = [];
  const isNew = open.length === state.table.trials.length;
  const allFail = (): boolean => isNew && plans.length > 0 && plans.every(({ kind }) => kind === "failed");
  const cards = await planTrials(
    open.map((trial) => ({ ...optionsOf(base, trial), ...device })),
    {
      ...{ environment, signal },
      onProgress: (done, total) => take({ fact: "planning", done, total }),
      onPlan: (trials, plan) => {
        plans.push(plan);
        for (const index of trials) applyPlan(state.table, open[index]!, plan);
        if (!allFail()) saveState(state); // if every plan fails, the sweep has not begun
      },
    },
  );
  const [first] = plans;
  if (first?.kind === "failed" && allFail()) throw notPlanned(first.error);
  const { CUDA_VISIBLE_DEVICES: visible } = environment;
  return {
    slots: slotsOf({ devices: options.devices, device: base.device, cards, visible }),
    refused: open.filter((trial) => trial.state === "too-large" || trial.state === "failed"),
  };
}

function applyPlan(table: SweepTable, trial: Trial, plan: TrialPlan): void {
  if (plan.kind === "fits") {
    table.timesBy ??= plan.timesBy;
    trial.totalSteps = plan.totalSteps;
    trial.plannedPeakBytes = plan.peakBytes;
    trial.plannedStepMs = plan.accumulation * plan.microBatchMs + plan.updateMs;
  } else if (plan.kind === "too-large") {
    trial.state = "too-large";
    trial.plannedPeakBytes = plan.neededBytes;
    trial.waysOut = plan.waysOut;
    trial.error = plan.reason;
  } else {
    trial.state = "failed";
    trial.error = plan.error;
  }
}

function notPlanned(error: string): UserError {
  const [message = "", ...fix] = error.split("\n");
  return new UserError(message, { fix: fix.join("\n") });
}

function rungsFor(options: SweepOptions, { trials }: SweepTable): Rung[] {
  const { strategy, reduction_factor: factor, min_steps, space } = options;
  const fitting = trials.filter(({ state }) => state !== "too-large");
  const steps = fitting.flatMap(({ totalSteps }) => totalSteps ?? []);
  if (strategy !== "halving" || steps.length === 0) return singleRung(fitting.length);
  const totalSteps = Math.min(...steps);
  const leastSteps =
    min_steps ?? Math.max(...fitting.map((trial) => leastStepsOf(optionsOf(space.base, trial), totalSteps)));
  return rungsOf(fitting.length, { factor, leastSteps, totalSteps });
}

/** Part of a run that the first round has at least: before it, the noise of single steps decides. */
const LEAST_SHARE = 1 / 16;

/** Returns the steps after which trials can be compared: some, and more than those of the warm-up. */
function leastStepsOf(options: Record<string, unknown>, totalSteps: number): number {
  const run = trainOptions(options as TrainInput);
  const warmupSteps = "warmup_steps" in run ? run.warmup_steps : stepsOfRatio(run.warmup_ratio, totalSteps);
  return Math.max(Math.ceil(LEAST_SHARE * totalSteps), warmupSteps + 1);
}
