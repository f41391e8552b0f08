/** What is said where a run cannot go on: what is wrong, what is safe, and how to go on. */
import { describeSource } from "../data/badSamples.ts";
import type { SampleSource } from "../data/samples.ts";
import { UserError } from "../errors.ts";
import type { OutOfMemoryError } from "../torch/device.ts";
import { checkpointFolders } from "./checkpoints.ts";
import type { Run } from "./setup.ts";

/** Runs a part of a run; to an error that its user can mend it adds the way on. */
export async function withWayOn<T>(run: Run, part: () => Promise<T>): Promise<T> {
  try {
    return await part();
  } catch (cause) {
    if (!(cause instanceof UserError)) throw cause;
    throw new UserError(cause.message, { fix: [cause.fix, howToGoOn(run)].join("\n"), cause });
  }
}

/** Memory ran out; `subject` is what does not fit. */
export function doesNotFit(subject: string, cause: OutOfMemoryError, run?: Run): UserError {
  const levers =
    "Pass more --memory, a lower --hd-num, or --boundaries host, a higher --head-groups, a smaller --mlp-tile.";
  return new UserError(`${subject} does not fit: ${cause.message}.`, {
    fix: run ? `${levers}\n${howToGoOn(run)}` : levers,
    cause,
  });
}

/** A number of the step that is being done is NaN or Infinity; `subject` says which. */
export async function notFinite(run: Run, subject: string, saved: boolean): Promise<UserError> {
  const { state, options } = run;
  const folders = await checkpointFolders(options.output);
  const untried = saved && state.accumulated.microBatches === 0; // the newest one's factors gave this very number
  const good = folders.at(untried ? -2 : -1);
  const found =
    good === undefined ? "There is no good checkpoint before it" : `The last good checkpoint is ${good}`;
  const start = good === undefined ? "" : `--adapter ${good} `;
  return new UserError(`Step ${state.step + 1}: ${subject} is not a finite number. ${found}.`, {
    fix: `Leave out what lorafit preview shows to be odd, or start with a lower rate: ${start}--learning-rate ${options.learning_rate / 2} --output <another folder>`,
  });
}

export function namesOf(samples: readonly SampleSource[]): string {
  return samples.map(describeSource).join(", ");
}

function howToGoOn({ checkpoint, options }: Run): string {
  if (checkpoint === undefined) return "There is no checkpoint yet: then start again.";
  return `The last good checkpoint is ${checkpoint}. Go on from it: npx lorafit train --resume ${options.output}`;
}
