/** The context that all parts of a running sweep share, and their common steps. */
import { scoreOf, type Trial } from "../runs/sweepTable.ts";
import { linkBest } from "./bestLink.ts";
import type { Slot } from "./devices.ts";
import { type Estimate, estimateOf } from "./estimate.ts";
import type { SweepFact } from "./facts.ts";
import { bestOf, type Rung } from "./halving.ts";
import type { SweepOptions } from "./options.ts";
import { type SweepState, saveState } from "./state.ts";
import { optionsOf, reproduceLine } from "./trialOptions.ts";

export interface SweepHooks {
  /** Stops the running trials with checkpoints. */
  signal: AbortSignal;
  /** File that starts lorafit, for the processes of trials. */
  program: string;
  environment: NodeJS.ProcessEnv;
  take: (fact: SweepFact) => void;
}

export interface Sweep {
  options: SweepOptions;
  state: SweepState;
  slots: readonly Slot[];
  rungs: readonly Rung[];
  hooks: SweepHooks;
}

/** Whether something of a trial is left to do. */
export function isOpen({ state }: Pick<Trial, "state">): boolean {
  return state === "planned" || state === "running";
}

/** Returns the time that is left. */
export function left({ state, rungs, slots }: Sweep): Estimate {
  return estimateOf(state.table, rungs, slots.length);
}

/** Finds the best trial, links its adapter, and writes the command that trains it again. */
export function keepBest({ state, options }: Pick<Sweep, "state" | "options">): void {
  const { table, folder } = state;
  const ranked = table.trials
    .filter(({ adapter, state: now }) => adapter !== null && now !== "failed")
    .map((trial) => ({ trial: trial.trial, score: scoreOf(table, trial) }));
  const [best] = bestOf(ranked, 1, table.metric.better);
  const trial = table.trials.find((one) => one.trial === best);
  if (!trial) return;
  table.best = trial.trial;
  table.reproduce = reproduceLine(optionsOf(options.space.base, trial), trial);
  saveState(state);
  linkBest(folder, trial.adapter!);
}
