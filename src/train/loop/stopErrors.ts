/** Errors that end a run: what is wrong, which checkpoint is good, and the command that continues. */
import { LIMIT_FLAGS } from "../../data/pictures/limits.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import type { SampleSource } from "../../data/samples/sample.ts";
import { UserError } from "../../errors.ts";
import type { Limits } from "../../plan/planner.ts";
import { commandLine, quoted } from "../../program.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { LostPeersError } from "../../torch/peers/lost.ts";
import { checkpointFolders } from "../folder/checkpoints.ts";
import { resumeLine } from "../folder/resume.ts";
import { heldByOthers } from "../machine/compute.ts";
import { limitsOf } from "../machine/modelPlanner.ts";
import { waysToFit } from "../planning/tooLittleMemory.ts";
import type { Run } from "./run.ts";

/** The groups of a run that its last checkpoint and the command to continue depend on. */
type Resumable = Pick<Run, "inputs" | "progress">;

/** Runs a part of a run. To a UserError it adds how to continue. */
export async function withWayOn<T>(run: Resumable, part: () => Promise<T>): Promise<T> {
  try {
    return await part();
  } catch (cause) {
    if (cause instanceof LostPeersError) throw cause; // it says how to continue, and has an exit code of its own
    if (!(cause instanceof UserError) || cause.fix?.includes(howToGoOn(run))) throw cause;
    throw new UserError(cause.message, { fix: [cause.fix, howToGoOn(run)].join("\n"), cause });
  }
}

/** Messages of libtorch, its libraries and the driver about a card that has failed. */
const CARD_FAULT = /\bCUDA error\b|CUDA driver|\bCU(BLAS|DNN)_STATUS|cuDNN error/;

/** Whether a card has failed: every later call fails as well. */
export function isCardFault(thrown: unknown): thrown is Error {
  if (!(thrown instanceof Error) || thrown instanceof UserError || thrown instanceof OutOfMemoryError)
    return false;
  return CARD_FAULT.test(thrown.message);
}

/** Returns the error for a card that failed during a run. */
export function cardFailed(run: Resumable & Pick<Run, "loaded">, cause: Error): UserError {
  const { device } = run.loaded.model;
  return new UserError(`Step ${run.progress.state.step + 1}: ${device} has failed: ${cause.message}`, {
    fix: `nvidia-smi and dmesg say more about the card.\n${howToGoOn(run)}`,
    cause,
  });
}

/** Returns the error for memory that ran out where no policy helps. `subject` names what does not fit. */
export function ranOut(subject: string, cause: OutOfMemoryError, run?: Resumable): UserError {
  const others = heldByOthers(cause.device);
  const more = moreMemory(others);
  const fix = run ? `${more}.\n${howToGoOn(run)}` : `${more}, or a lower ${LIMIT_FLAGS}.`;
  return new UserError(`${subject} does not fit: ${reasonOf(cause, others)}.`, { fix, cause });
}

/**
 * Returns the error for memory that ran out under the leanest policy, with settings that would fit this run's
 * memory.
 */
export async function doesNotFit(
  subject: string,
  cause: OutOfMemoryError,
  run: Omit<Run, "facts">,
): Promise<UserError> {
  const { options, planner, demand } = run.inputs;
  const { workload } = run.planned;
  const ways = await waysToFit({ planner, workload, demand, limits: roomOf(run, cause), options });
  const others = heldByOthers(cause.device);
  return new UserError(`${subject} does not fit even under the leanest policy: ${reasonOf(cause, others)}.`, {
    fix: [[moreMemory(others), ...ways].join("\nor   "), howToGoOn(run)].join("\n"),
    cause,
  });
}

function reasonOf({ message }: OutOfMemoryError, others: string | undefined): string {
  return [message, others].filter(Boolean).join("; ");
}

function moreMemory(others: string | undefined): string {
  return others ? "End the other programs (nvidia-smi lists them)" : "Pass more --memory";
}

/** Returns the memory limits of a run: the cap, or on a card what other programs leave. */
function roomOf(
  { loaded: { model }, inputs: { options } }: Pick<Run, "loaded" | "inputs">,
  { capBytes, pool }: OutOfMemoryError,
): Limits {
  const cap = pool === "device" && model.device === "cpu" ? capBytes : undefined;
  const { memory = cap, host_memory } = options;
  const unlimited = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
  return limitsOf({ memory, host_memory }, model.device) ?? unlimited;
}

/** Says that a number of a step is NaN or Infinity. */
export class NotFiniteError extends UserError {}

/**
 * Returns the error for a number of a step that is NaN or Infinity; `subject` names the number. isUntried:
 * whether the newest checkpoint's factors gave this number and none before, so that this checkpoint is not
 * known to be good.
 */
export async function notFinite(
  { inputs: { options } }: Pick<Run, "inputs">,
  subject: string,
  { step, isUntried }: { step: number; isUntried: boolean },
): Promise<NotFiniteError> {
  const folders = await checkpointFolders(options.output);
  const good = folders.at(isUntried ? -2 : -1);
  const found =
    good === undefined ? "There is no good checkpoint before it" : `The last good checkpoint is ${good}`;
  const start = good === undefined ? "" : `--adapter ${quoted(good)} `;
  return new NotFiniteError(`Step ${step}: ${subject} is not a finite number. ${found}.`, {
    fix: `Look at these samples with ${commandLine("preview")} and leave out what is odd, or start with a lower rate: ${start}--learning-rate ${options.learning_rate / 2} --output <another folder>`,
  });
}

export function namesOf(samples: readonly SampleSource[]): string {
  return samples.map(describeSource).join(", ");
}

function howToGoOn({ progress: { checkpoint }, inputs: { options } }: Resumable): string {
  if (checkpoint === undefined) return "There is no checkpoint yet: start the run again.";
  return `The last good checkpoint is ${checkpoint}. Continue from it: ${resumeLine(options.output)}`;
}
