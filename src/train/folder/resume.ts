/**
 * Decides where a run begins: in an output folder without remains of an earlier run, or at the last complete
 * checkpoint of the same run.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { makeFolder } from "../../checkpoint/files/disk.ts";
import type { PictureForm } from "../../data/pictures/form.ts";
import { LIMIT_OPTIONS, type LimitValues, withOwnLimit } from "../../data/pictures/limits.ts";
import { UserError } from "../../errors.ts";
import { commandLine, quoted } from "../../program.ts";
import { POLICY_OPTION_NAMES } from "../../step/policy.ts";
import { OWN_VARIABLES } from "../../torch/peers/launchers/launcherName.ts";
import { earlyStopReason } from "../evaluate/best.ts";
import type { TrainOptions } from "../options/options.ts";
import { type Checkpoint, checkpointFolders, lastGoodCheckpoint, type TrainerState } from "./checkpoints.ts";
import {
  ADAPTER_FOLDER,
  ANSWERS_FILE,
  BEST_FOLDER,
  DEFECTS_FILE,
  EVALS_FILE,
  FACTS_FILE,
  isDefectTrace,
  MLFLOW_SPOOL_FILE,
  MLFLOW_STATE_FILE,
  OPTIONS_FILE,
  POLICY_FILE,
  REPORT_FILE,
  STEPS_FILE,
  TENSORBOARD_FOLDER,
} from "./runLog.ts";
import { mendFolders } from "./sealedFolders.ts";
import { MEMORY_FILE } from "./stepMemory.ts";

/**
 * Options that may change from one part of a run to the next: paths, whose content is compared, and what does
 * not change the result.
 */
const FREE_OPTIONS = new Set<string>([
  ...["model", "adapter", "data", "output", "resume", "skip_bad"],
  ...["save_every", "keep_checkpoints", "eval_data", "eval_every", "early_stop"],
  "recipe", // rank, alpha and learning rate, which it gives defaults, are compared
  ...["device", "threads", "memory", "host_memory", "planned_step", "memory_snapshot", "report_to"],
  ...["policy", ...POLICY_OPTION_NAMES],
  ...["exact_sum", "sequence_parallel", "rank_timeout"],
]);

/** Options that came after the first runs, with what they were before. */
const LATER_OPTIONS = { metric: "loss" };

/**
 * Makes the output folder ready. With `resume`, returns the last complete checkpoint, if there is one;
 * without, throws UserError for an unfinished run.
 */
export async function openOutput(
  output: string,
  resume: boolean,
  notice: (text: string) => void,
): Promise<Checkpoint | undefined> {
  makeFolder(output);
  await mendFolders(output);
  const checkpoint = await lastGoodCheckpoint(output, (folder, fault) => {
    notice(`a damaged checkpoint is not used (${fault}); it is kept as ${folder}`);
  });
  if (resume) return checkpoint;
  if (checkpoint && !isOver(checkpoint.state)) throw unfinished(output, checkpoint.state);
  return undefined;
}

/** Whether a run has reached its last step, or has ended early. */
function isOver({ step, totalSteps, evals, options }: TrainerState): boolean {
  const { early_stop, metric = "loss" } = options as Partial<TrainOptions>;
  return step >= totalSteps || earlyStopReason(evals, early_stop, metric) !== undefined;
}

/**
 * Returns the options of a run and of its checkpoint with the limit of pictures that the model has, and no
 * other. Throws UsageError for a limit of other pictures that the run does not record.
 */
export function withLimitsOf(
  { limit }: PictureForm,
  given: TrainOptions,
  checkpoint: Checkpoint | undefined,
): { given: TrainOptions; checkpoint: Checkpoint | undefined } {
  const before: LimitValues | undefined = checkpoint?.state.options;
  const own = withOwnLimit(given, limit, before ?? (given.resume ? given : undefined));
  if (!checkpoint || !before) return { given: own, checkpoint };
  const options = withOwnLimit(before, limit, before) as typeof checkpoint.state.options;
  return { given: own, checkpoint: { ...checkpoint, state: { ...checkpoint.state, options } } };
}

/** Options that fingerprints of data depend on, because samples are read by them. */
const READING_OPTIONS: ReadonlySet<string> = new Set([
  ...LIMIT_OPTIONS,
  ...["model", "min_pixels", "image_compat", "label_newline"],
]);

/**
 * Throws UserError, with a list of the changes, if continuing from a checkpoint would be another run.
 * fingerprints: those known so far.
 */
export function checkSameRun(
  { folder, state }: Checkpoint,
  options: Record<string, unknown>,
  fingerprints: Record<string, string>,
): void {
  const keys = changedOptions({ ...LATER_OPTIONS, ...state.options }, options);
  const isReadTheSame = !keys.some((key) => READING_OPTIONS.has(key));
  const changes = [
    ...keys.map((key) => `${key} was ${show(state.options[key])}, is ${show(options[key])}`),
    ...Object.keys(fingerprints)
      .filter((what) => isReadTheSame && fingerprints[what] !== state.fingerprints[what])
      .map((what) => `the content of ${what} has changed`),
  ];
  if (changes.length === 0) return;
  throw new UserError(`${folder} belongs to a run with other settings:\n  ${changes.join("\n  ")}`, {
    fix: `Continue that run with its own options (${join(folder, "..", OPTIONS_FILE)}) and unchanged data: ${resumeLine(join(folder, ".."))}\nOr start a new run from what it has learned: --adapter ${quoted(folder)} --output <another folder>`,
  });
}

/**
 * Returns the command for continuing without a sample that a run began with. It starts a new run: without the
 * sample it is not the same one.
 */
export function insteadOfSkipping({ folder }: Checkpoint): string {
  const options = quoted(join(folder, "..", OPTIONS_FILE));
  const start = `train --config ${options} --adapter ${quoted(folder)} --skip-bad --output <another folder>`;
  return `${commandLine(start)}  (a new run from what this one has learned: a run continues only with all of its samples)`;
}

/**
 * Reports if frozen weights are rounded differently than before, because PLoRA is folded into them now, or no
 * longer.
 */
export function noticeFolding(
  { state: { folded: was } }: Checkpoint,
  folded: boolean,
  { isGiven, notice }: { isGiven: boolean; notice: (text: string) => void },
): void {
  if (was === undefined || was === folded) return;
  const change = folded
    ? "PLoRA was not folded into this run's weights and is now"
    : "PLoRA was folded into this run's weights and no longer is";
  const why = isGiven ? "as the policy says" : "because of the memory limit and these weights";
  notice(`${change}, ${why}; the run's numbers differ a little from here on`);
}

/** Returns the command that continues the run of an output folder. */
export function resumeLine(output: string): string {
  const flags = process.env[OWN_VARIABLES.flags]; // such as --gpus 4, which the run does not record
  return commandLine(`train --resume ${quoted(output)}${flags ? ` ${flags}` : ""}`);
}

/** Lists the options that differ and on which the result depends. */
export function changedOptions(before: Record<string, unknown>, now: Record<string, unknown>): string[] {
  return changedKeys(before, now).filter((key) => !FREE_OPTIONS.has(key));
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
    fix: `Continue it: ${resumeLine(output)}\nOr start a new run in another folder: --output <folder>`,
  });
}

/** Results of an earlier run, which are kept. Its logs alone, without a result, are removed. */
const RESULTS = [ADAPTER_FOLDER, BEST_FOLDER, REPORT_FILE];
const LOGS = [
  STEPS_FILE,
  EVALS_FILE,
  ANSWERS_FILE,
  OPTIONS_FILE,
  POLICY_FILE,
  DEFECTS_FILE,
  FACTS_FILE,
  MEMORY_FILE,
  TENSORBOARD_FOLDER,
  MLFLOW_SPOOL_FILE,
  MLFLOW_STATE_FILE,
];

/** Moves what an earlier run has left into a folder of its own, before the first step of a new run. */
export async function moveEarlierRun(output: string, notice: (text: string) => void): Promise<void> {
  const here = (names: readonly string[]): string[] =>
    names.map((name) => join(output, name)).filter(existsSync);
  const results = [...(await checkpointFolders(output)), ...here(RESULTS)];
  const traces = (await readdir(output)).filter(isDefectTrace);
  const others = here([...LOGS, ...traces]);
  if (results.length === 0) {
    for (const path of others) await rm(path, { recursive: true });
    return;
  }
  let number = 1;
  while (existsSync(join(output, `earlier-${number}`))) number += 1;
  const earlier = join(output, `earlier-${number}`);
  await mkdir(earlier);
  for (const path of [...results, ...others]) await rename(path, join(earlier, basename(path)));
  notice(`the run that was in ${output} is now in ${earlier}`);
}
