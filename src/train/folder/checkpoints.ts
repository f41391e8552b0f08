/**
 * Checkpoints of a run: `<output>/checkpoint-<step>` with the adapter as PEFT has it, the optimizer's
 * moments, the gradients of a step that was interrupted, and trainer_state.json. No generator has a state:
 * order of data and dropout masks follow from seed and position.
 */
import { existsSync } from "node:fs";
import { readdir, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { writeAdapterFiles } from "../../checkpoint/adapter/peft.ts";
import { writeFileWhole } from "../../checkpoint/files/disk.ts";
import { openSafetensors, writeSafetensors } from "../../checkpoint/files/safetensors.ts";
import type { DataPosition } from "../../data/stream/packing.ts";
import { adapterFromLora, type Lora } from "../../models/lora.ts";
import type { StepDown } from "../../plan/ladder.ts";
import type { LossScale } from "../../step/optimizer/lossScale.ts";
import type { AdamW } from "../../step/optimizer/optimizer.ts";
import {
  gradientTensors,
  momentTensors,
  restoreGradients,
  restoreMoments,
  type TensorFile,
} from "../../step/optimizer/savedState.ts";
import type { Policy } from "../../step/policy.ts";
import { synchronize } from "../../torch/device.ts";
import type { EvalRecord } from "./runLog.ts";
import { faultOf, removeFolder, writeFolder } from "./sealedFolders.ts";

/** Sums over the micro-batches of the current step so far; all zero between steps. */
export interface Accumulated {
  microBatches: number;
  /** Sum of their weights in the step. */
  weightSum: number;
  /** Sum of weight times loss. */
  lossSum: number;
  tokens: number;
  elapsedMs: number;
  /** Time for which the device had nothing to do because data was missing. */
  dataWaitMs: number;
  /** Epoch of the last micro-batch. */
  epoch: number;
}

export const emptyStep = (): Accumulated => ({
  microBatches: 0,
  weightSum: 0,
  lossSum: 0,
  tokens: 0,
  elapsedMs: 0,
  dataWaitMs: 0,
  epoch: 0,
});

/** The state of a run, except its tensors. */
export interface TrainerState {
  version: 1;
  /** Optimizer steps done. */
  step: number;
  totalSteps: number;
  /** Micro-batches since the run began; the seeds of dropout follow from it. */
  microBatches: number;
  data: DataPosition;
  accumulated: Accumulated;
  evals: EvalRecord[];
  /** Steps to leaner policies, in order; older checkpoints have the tokens alone. */
  stepsDown: readonly (StepDown | number)[];
  /**
   * Policy of each length class; upToTokens is null if one policy is for all. Absent in older checkpoints.
   */
  policies?: readonly { upToTokens: number | null; policy: Policy }[] | undefined;
  /** Like stepsDown, for the losses of evaluations. */
  evalStepsDown?: readonly (StepDown | number)[] | undefined;
  /**
   * Whether PLoRA was folded into the weights, which rounds them differently; undefined in older checkpoints.
   */
  folded?: boolean | undefined;
  /** Loss scale of float16, also within a step; undefined in other types. */
  lossScale?: LossScale | undefined;
  options: Record<string, unknown>;
  /** Hashes that show whether the model or the data have changed. */
  fingerprints: Record<string, string>;
}

export interface Checkpoint {
  folder: string;
  state: TrainerState;
}

export interface Trained {
  lora: Lora;
  optimizer: AdamW;
  baseModel: string;
}

const STATE_FILE = "trainer_state.json";
const OPTIMIZER_FILE = "optimizer.safetensors";
const GRADIENTS_FILE = "gradients.safetensors";
const NAME = /^checkpoint-(\d+)(?:-micro-(\d+))?$/;

/** Writes a checkpoint, whole or not at all, and returns its folder. */
export async function saveCheckpoint(output: string, state: TrainerState, trained: Trained): Promise<string> {
  settle(trained);
  const { microBatches } = state.accumulated;
  const folder = checkpointFolder(output, state);
  const write = (aside: string): void => {
    writeLora(aside, trained);
    writeSafetensors(join(aside, OPTIMIZER_FILE), momentTensors(trained.optimizer));
    if (microBatches > 0) writeSafetensors(join(aside, GRADIENTS_FILE), gradientTensors(trained.optimizer));
    writeFileWhole(join(aside, STATE_FILE), `${JSON.stringify(state, undefined, 2)}\n`);
  };
  await writeFolder(folder, write, { sealed: true });
  return folder;
}

/** Returns the folder of a state's checkpoint. */
export function checkpointFolder(
  output: string,
  { step, accumulated: { microBatches } }: Pick<TrainerState, "step" | "accumulated">,
): string {
  return join(output, `checkpoint-${step}${microBatches > 0 ? `-micro-${microBatches}` : ""}`);
}

/** Writes an adapter's folder, whole or not at all. */
export async function saveAdapter(folder: string, trained: Trained): Promise<void> {
  settle(trained);
  await writeFolder(folder, (aside) => writeLora(aside, trained), { sealed: false });
}

/** Waits until the device has done all that is queued, because an update moves data to the host. */
function settle({ optimizer }: Trained): void {
  const [parameter] = optimizer.parameters;
  if (parameter) synchronize(parameter.gradient.device);
}

/**
 * Finds the newest complete checkpoint. Renames newer ones that are damaged, and reports them to `onBroken`.
 */
export async function lastGoodCheckpoint(
  output: string,
  onBroken: (folder: string, fault: string) => void,
): Promise<Checkpoint | undefined> {
  for (const folder of (await checkpointFolders(output)).reverse()) {
    const fault = await faultOf(folder);
    if (fault === undefined) return await readCheckpoint(folder);
    onBroken(await setAside(folder), fault);
  }
  return undefined;
}

/** Reads the state of a complete checkpoint. */
export async function readCheckpoint(folder: string): Promise<Checkpoint> {
  return { folder, state: JSON.parse(await readFile(join(folder, STATE_FILE), "utf8")) };
}

/**
 * Puts a checkpoint's moments and gradients into an optimizer of the same parameters. Reports a change of the
 * moments' precision.
 */
export function restoreOptimizer(
  { folder, state }: Checkpoint,
  optimizer: AdamW,
  notice: (text: string) => void,
): void {
  const was = reading(join(folder, OPTIMIZER_FILE), (file) => restoreMoments(optimizer, file));
  if (was !== optimizer.precision) {
    notice(
      `the optimizer's moments were saved as ${was} and continue as ${optimizer.precision}, as the policy says; the run's numbers differ a little from here on`,
    );
  }
  if (state.accumulated.microBatches > 0) {
    reading(join(folder, GRADIENTS_FILE), (file) => restoreGradients(optimizer, file));
  }
  optimizer.stepsDone = state.step - (state.lossScale?.skippedSteps ?? 0);
}

/** Removes all but the newest `keep` checkpoints. */
export async function pruneCheckpoints(output: string, keep: number): Promise<void> {
  for (const folder of (await checkpointFolders(output)).slice(0, -keep)) await removeFolder(folder);
}

/** Lists the folders of checkpoints from the oldest to the newest, complete or not. */
export async function checkpointFolders(output: string): Promise<string[]> {
  const names = await readdir(output).catch(() => []);
  const found = names.flatMap((name) => {
    const [, step, micro = 0] = NAME.exec(name) ?? [];
    return step === undefined ? [] : [{ name, step: Number(step), micro: Number(micro) }];
  });
  found.sort((left, right) => left.step - right.step || left.micro - right.micro);
  return found.map(({ name }) => join(output, name));
}

async function setAside(folder: string): Promise<string> {
  const aside = join(dirname(folder), `broken-${basename(folder)}`);
  if (existsSync(aside)) await rm(aside, { recursive: true });
  await rename(folder, aside);
  return aside;
}

function writeLora(folder: string, { lora, baseModel }: Trained): void {
  writeAdapterFiles(folder, adapterFromLora(lora, baseModel));
}

function reading<T>(path: string, read: (file: TensorFile) => T): T {
  const file = openSafetensors(path);
  try {
    return read(file);
  } finally {
    file.close();
  }
}
