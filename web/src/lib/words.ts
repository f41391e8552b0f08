/** Names of states and of memory's categories as the command line has them, each with its colour. */
import type { Category, RunState, TrialState } from "../../../src/server/ui/api.ts";
import type { Tone } from "../parts/chart/model.ts";

/** From the bottom of a stack: what stays, then what comes and goes. */
export const CATEGORIES: Readonly<Record<Category, { name: string; tone: Tone }>> = {
  weights: { name: "frozen base", tone: "8" },
  loraParameters: { name: "LoRA", tone: "4" },
  optimizerState: { name: "optimizer", tone: "7" },
  loraGradients: { name: "LoRA gradients", tone: "6" },
  inputData: { name: "input data", tone: "3" },
  visionFeatures: { name: "vision", tone: "5" },
  boundaryActivations: { name: "saved activations", tone: "1" },
  workingSet: { name: "working set", tone: "2" },
  loss: { name: "loss", tone: "bad" },
  workspace: { name: "workspace", tone: "muted" },
};

export const CATEGORY_ORDER = Object.keys(CATEGORIES) as Category[];

export const RUN_STATES: Readonly<Record<RunState, { name: string; tone: Tone; meaning: string }>> = {
  running: { name: "running", tone: "1", meaning: "its process trains" },
  finished: { name: "finished", tone: "good", meaning: "it has done all its steps" },
  interrupted: { name: "stopped", tone: "warn", meaning: "it saved a checkpoint and ended; it can continue" },
  crashed: {
    name: "crashed",
    tone: "bad",
    meaning: "its process ended without a word, for example by kill -9",
  },
  failed: { name: "failed", tone: "bad", meaning: "it ended with an error" },
};

export const TRIAL_STATES: Readonly<Record<TrialState, { name: string; tone: Tone }>> = {
  planned: { name: "waits", tone: "muted" },
  "too-large": { name: "too large", tone: "warn" },
  running: { name: "running", tone: "1" },
  finished: { name: "finished", tone: "good" },
  failed: { name: "failed", tone: "bad" },
};

/** Returns "3 finished, 1 running, 2 too large", without states that no trial is in. */
export function trialsOf(trials: Record<TrialState, number>): string {
  return Object.entries(TRIAL_STATES)
    .map(([state, { name }]) => ({ name, count: trials[state as TrialState] ?? 0 }))
    .filter(({ count }) => count > 0)
    .reverse()
    .map(({ name, count }) => `${count} ${name}`)
    .join(", ");
}
