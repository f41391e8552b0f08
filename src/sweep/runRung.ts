/** Runs one round of a sweep: all its trials up to the round's end. The better ones go to the next. */
import { join } from "node:path";
import { stringify } from "yaml";
import { writeFileWhole } from "../checkpoint/files/disk.ts";
import { scoreOf, type Trial } from "../runs/sweepTable.ts";
import { eachOn, type Slot } from "./devices.ts";
import { bestOf, stepsAt } from "./halving.ts";
import { hasReached, readResults } from "./results.ts";
import { isOpen, keepBest, left, type Sweep } from "./running.ts";
import { type Part, type PartEnd, runPart } from "./runTrial.ts";
import { saveState } from "./state.ts";
import { optionsOf } from "./trialOptions.ts";

export async function runRung(sweep: Sweep, rung: number): Promise<void> {
  const { state, slots, hooks, rungs } = sweep;
  const members = state.table.trials.filter((trial) => isOpen(trial) && (trial.rung ?? 0) === rung);
  if (members.length > 0 && rungs.length > 1) hooks.take({ fact: "rung", rung, rungs, members });
  await eachOn(slots, members, (trial, slot) => runMember(sweep, trial, slot), hooks.signal);
  if (!hooks.signal.aborted && rung + 1 < rungs.length) promote(sweep, rung);
}

/** Runs a trial up to the end of its round, unless it is there already. */
async function runMember(sweep: Sweep, trial: Trial, slot: Slot): Promise<void> {
  const { state, rungs, options } = sweep;
  const totalSteps = trial.totalSteps ?? 0;
  const isLast = trial.rung === rungs.length - 1;
  const { eval_every: evalEvery } = optionsOf(options.space.base, trial) as { eval_every?: number };
  const end = stepsAt(rungs[trial.rung ?? 0]!, totalSteps, evalEvery);
  if (await hasReached(join(state.folder, trial.run), end, totalSteps)) {
    await takeResults(sweep, trial);
    return closeTrial(sweep, trial, isLast);
  }
  trial.state = "running";
  saveState(state);
  // a round ends with an evaluation, and needs no other
  const stop = isLast ? {} : { stopAt: end, ...(evalEvery === undefined && { evalEvery: end }) };
  const outcome = await runUpTo(sweep, trial, slot, stop);
  await takeResults(sweep, trial);
  if (outcome.ended === "interrupted") {
    trial.state = "planned";
    return saveState(state);
  }
  if (outcome.ended === "failed") Object.assign(trial, { state: "failed", error: outcome.error });
  closeTrial(sweep, trial, isLast || trial.step < end); // a run may stop early by itself
}

async function runUpTo(
  sweep: Sweep,
  trial: Trial,
  slot: Slot,
  stop: Pick<Part, "stopAt" | "evalEvery">,
): Promise<PartEnd> {
  const { hooks, state } = sweep;
  const at = (name: string): string => join(state.folder, name);
  const config = at(`${trial.run}.yaml`);
  writeFileWhole(config, configOf(sweep, trial));
  hooks.take({ fact: "begin", trial, slot });
  const startMs = performance.now();
  const { signal, program, environment } = hooks;
  const outcome = await runPart({ config, run: at(trial.run), log: at(`${trial.run}.log`), ...stop }, slot, {
    ...{ signal, program, environment },
    onStep: (done) => hooks.take({ fact: "step", trial, slot, ...done, ...left(sweep) }),
    notice: (text) => hooks.take({ fact: "notice", text }),
  });
  trial.elapsedMs += performance.now() - startMs;
  return outcome;
}

async function takeResults({ state }: Sweep, trial: Trial): Promise<void> {
  const { folder, table } = state;
  Object.assign(trial, await readResults(folder, trial.run, table));
}

/** Ends a trial, or its round. isOver: nothing of the trial is left to do. */
function closeTrial(sweep: Sweep, trial: Trial, isOver: boolean): void {
  const { state, hooks } = sweep;
  if (trial.state !== "failed") trial.state = isOver ? "finished" : "planned";
  saveState(state);
  keepBest(sweep);
  const fact = trial.state === "planned" ? "part" : "end";
  hooks.take({ fact, trial, isBest: state.table.best === trial.trial, isBehind: false, ...left(sweep) });
}

/** Lets the better trials of a round go to the next; the others have ended. */
function promote(sweep: Sweep, rung: number): void {
  const { state, rungs, hooks } = sweep;
  const { table } = state;
  const members = table.trials.filter(
    (trial) => trial.rung === rung && (trial.state === "planned" || trial.state === "finished"),
  );
  if (members.every(({ state: now }) => now === "finished")) return; // decided before
  const ranked = members.map((trial) => ({ trial: trial.trial, score: scoreOf(table, trial) }));
  const before = table.trials.filter((trial) => (trial.rung ?? 0) > rung && trial.state !== "failed");
  const places = Math.max(0, rungs[rung + 1]!.trials - before.length); // after --retry some may be taken
  const going = new Set(bestOf(ranked, places, table.metric.better));
  const ended = members.filter(({ trial, state: now }) => !going.has(trial) && now === "planned");
  for (const trial of members) {
    if (going.has(trial.trial)) trial.rung = rung + 1;
    else trial.state = "finished";
  }
  saveState(state);
  for (const trial of ended)
    hooks.take({ fact: "end", trial, isBest: false, isBehind: true, ...left(sweep) });
}

/** Returns the configuration of a trial's run. It continues by itself, and keeps one checkpoint. */
function configOf({ state, options }: Sweep, trial: Trial): string {
  const config = {
    keep_checkpoints: 1,
    ...optionsOf(options.space.base, trial),
    output: join(state.folder, trial.run),
    resume: true,
  };
  return stringify(config);
}
