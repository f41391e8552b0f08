/** Plans trials in a process of its own. Trials whose options differ in nothing that matters share a plan. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { UserError } from "../../errors.ts";
import type { TrialPlan } from "./trialPlan.ts";

/** Options that change neither memory nor the number of steps. */
const OF_NO_WEIGHT = new Set([
  ...[
    "learning_rate",
    "lora_alpha",
    "lora_rslora",
    "adapter_keys",
    "lr_schedule",
    "warmup_steps",
    "warmup_ratio",
  ],
  ...["weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"],
  ...["save_every", "keep_checkpoints", "output", "resume"],
]);

export interface PlanHooks {
  signal: AbortSignal;
  environment: NodeJS.ProcessEnv;
  /** Called for each plan with the indices of the trials that it is for. */
  onPlan: (trials: readonly number[], plan: TrialPlan) => void;
  /** Called before each plan. */
  onProgress: (done: number, total: number) => void;
}

/** Groups trials that have the same plan, by their indices. */
export function equalPlans(trials: readonly Record<string, unknown>[]): number[][] {
  const groups = new Map<string, number[]>();
  for (const [index, options] of trials.entries()) {
    const weighty = Object.entries(options).filter(([key]) => !OF_NO_WEIGHT.has(key));
    const name = JSON.stringify(weighty.sort(([one], [other]) => (one < other ? -1 : 1)));
    groups.set(name, [...(groups.get(name) ?? []), index]);
  }
  return [...groups.values()];
}

/**
 * Plans the trials with these options, all keys as `lorafit train` has them, and returns the number of cards.
 * Returns early if aborted.
 */
export async function planTrials(
  trials: readonly Record<string, unknown>[],
  { signal, environment, onPlan, onProgress }: PlanHooks,
): Promise<number> {
  const groups = equalPlans(trials);
  const script = fileURLToPath(new URL("./planProcess.js", import.meta.url));
  const child = spawn(process.execPath, [script], { env: environment, detached: true });
  const stop = (): boolean => child.kill("SIGKILL");
  signal.addEventListener("abort", stop);
  try {
    child.stdin.on("error", () => {}); // it has ended, and says why
    child.stdin.end(JSON.stringify(groups.map(([first]) => trials[first!])));
    const ended = once(child, "close");
    const errors = text(child.stderr);
    let cards: number | undefined;
    let done = 0;
    for await (const line of createInterface(child.stdout)) {
      if (cards === undefined) cards = Number(line);
      else onPlan(groups[done++]!, JSON.parse(line));
      if (groups.length > 0) onProgress(done, groups.length);
    }
    const [code, killed] = await ended;
    if ((cards === undefined || done < groups.length) && !signal.aborted)
      throw new UserError(`Planning a trial ended with ${killed ?? `code ${code}`}.`, {
        fix: (await errors).trim() || "Run the same command again, with fewer settings if it ends again.",
      });
    return cards ?? 0;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
