/** Where a run begins: in an output folder that is cleared of what was there before, or at the last good checkpoint, if it is of the same run. */
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { makeFolder } from "../../checkpoint/disk.ts";
import { UserError } from "../../errors.ts";
import { commandLine, quoted } from "../../program.ts";
import { POLICY_OPTION_NAMES } from "../../step/policy.ts";
import { type Checkpoint, checkpointFolders, lastGoodCheckpoint, type TrainerState } from "./checkpoints.ts";
import {
  ANSWERS_FILE,
  DEFECTS_FILE,
  EVALS_FILE,
  isDefectTrace,
  OPTIONS_FILE,
  POLICY_FILE,
  REPORT_FILE,
  STEPS_FILE,
} from "./runLog.ts";
import { mendFolders } from "./sealedFolders.ts";

/** The finished adapter, and the one with the lowest loss on eval_data. */
export const ADAPTER_FOLDER = "adapter";
export const BEST_FOLDER = "best";

/** Options that may change from one part of a run to the next: paths, whose content is compared, and what does not change the result. */
const FREE_OPTIONS = new Set<string>([
  ...["model", "adapter", "data", "output", "resume", "skip_bad"],
  ...["save_every", "keep_checkpoints", "eval_data", "eval_every"],
  "recipe", // rank, alpha and learning rate, which it gives defaults, are compared
  ...["device", "threads", "memory", "host_memory", "planned_step"],
  ...["policy", ...POLICY_OPTION_NAMES],
]);

/** Makes the output folder ready. With `resume` returns the last good checkpoint, if there is one; without it an unfinished run is a UserError. */
export async function openOutput(
  output: string,
  resume: boolean,
  notice: (text: string) => void,
): Promise<Checkpoint | undefined> {
  makeFolder(output);
  await mendFolders(output);
  const checkpoint = await lastGoodCheckpoint(output, (folder, fault) => {
    notice(`a damaged checkpoint is left out (${fault}); it is kept as ${folder}`);
  });
  if (resume) return checkpoint;
  if (checkpoint && checkpoint.state.step < checkpoint.state.totalSteps)
    throw unfinished(output, checkpoint.state);
  return undefined;
}

/** Throws UserError, which lists the changes, where going on from a checkpoint would not give what the run began as. fingerprints: as far as known. */
export function checkSameRun(
  { folder, state }: Checkpoint,
  options: Record<string, unknown>,
  fingerprints: Record<string, string>,
): void {
  const changes = [
    ...changedKeys(state.options, options)
      .filter((key) => !FREE_OPTIONS.has(key))
      .map((key) => `${key} was ${show(state.options[key])}, is ${show(options[key])}`),
    ...Object.keys(fingerprints)
      .filter((what) => fingerprints[what] !== state.fingerprints[what])
      .map((what) => `the content of ${what} has changed`),
  ];
  if (changes.length === 0) return;
  throw new UserError(`${folder} is of a run with other settings:\n  ${changes.join("\n  ")}`, {
    fix: `Go on as that run was set up (${join(folder, "..", OPTIONS_FILE)}): ${resumeLine(join(folder, ".."))}, with its data as they were, or start a new one from what it has learned: --adapter ${quoted(folder)} --output <another folder>.`,
  });
}

/** The way on without a sample that a run began with: going on without it would not be the same run. */
export function insteadOfSkipping({ folder }: Checkpoint): string {
  const options = quoted(join(folder, "..", OPTIONS_FILE));
  const start = `train --config ${options} --adapter ${quoted(folder)} --skip-bad --output <another folder>`;
  return `${commandLine(start)}  (a new run from what this one has learned: a run goes on only with all of its samples)`;
}

/** Tells where frozen weights are rounded otherwise than before, as PLoRA is folded into them now or no longer. */
export function noticeFolding(
  { state: { folded: was } }: Checkpoint,
  folded: boolean,
  { isGiven, notice }: { isGiven: boolean; notice: (text: string) => void },
): void {
  if (was === undefined || was === folded) return;
  const change = folded
    ? "PLoRA was not folded into this run's weights and is now"
    : "PLoRA was folded into this run's weights and no longer is";
  const why = isGiven ? "as the policy says" : "as it can't be within this memory over these weights";
  notice(`${change}, ${why}; the run's numbers differ a little from here on`);
}

/** The command that goes on with the run of an output folder. */
export function resumeLine(output: string): string {
  return commandLine(`train --resume ${quoted(output)}`);
}

function changedKeys(before: Record<string, unknown>, now: Record<string, unknown>): string[] {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])];
  return keys.filter((key) => JSON.stringify(before[key]) !== JSON.stringify(now[key]));
}

function show(value: unknown): string {
  return value === undefined ? "not given" : JSON.stringify(value);
}

function unfinished(output: string, { step, totalSteps }: TrainerState): UserError {
  return new UserError(`${output} holds a run that stopped at step ${step} of ${totalSteps}.`, {
    fix: `Go on with it: ${resumeLine(output)}\nOr start anew in another folder: --output <folder>`,
  });
}

/** What speaks of a run that was in the folder; its log alone, without anything learned or a page made of it, is not kept. */
const RESULTS = [ADAPTER_FOLDER, BEST_FOLDER, REPORT_FILE];
const LOGS = [STEPS_FILE, EVALS_FILE, ANSWERS_FILE, OPTIONS_FILE, POLICY_FILE, DEFECTS_FILE];

/** Before a new run's first step: what an earlier one has left goes to a folder of its own, so that nothing there speaks of another run. */
export async function moveEarlierRun(output: string, notice: (text: string) => void): Promise<void> {
  const here = (names: readonly string[]): string[] =>
    names.map((name) => join(output, name)).filter(existsSync);
  const results = [...(await checkpointFolders(output)), ...here(RESULTS)];
  const traces = (await readdir(output)).filter(isDefectTrace);
  const others = here([...LOGS, ...traces]);
  if (results.length === 0) {
    for (const path of others) await rm(path);
    return;
  }
  let number = 1;
  while (existsSync(join(output, `earlier-${number}`))) number += 1;
  const earlier = join(output, `earlier-${number}`);
  await mkdir(earlier);
  for (const path of [...results, ...others]) await rename(path, join(earlier, basename(path)));
  notice(`the run that was in ${output} is now in ${earlier}`);
}
