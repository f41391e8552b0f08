/**
 * Reads what `lorafit report` shows of a run. Throws UserError for records and options that are not a run's.
 */
import { join } from "node:path";
import { UserError } from "../../errors.ts";
import {
  EVALS_FILE,
  type EvalRecord,
  OPTIONS_FILE,
  readRecords,
  STEPS_FILE,
  type StepRecord,
} from "../../train/folder/runLog.ts";
import { readStepMemory, type StepMemory } from "../../train/folder/stepMemory.ts";
import { readYaml } from "../args/yamlFile.ts";

export interface RecordedRun {
  options: Record<string, unknown>;
  /** Records of the steps; at least one. */
  steps: StepRecord[];
  evals: EvalRecord[];
  /** The memory over one step; undefined if the run has no record of it. */
  memory: StepMemory | undefined;
}

/**
 * Numbers that the page shows of every step and every evaluation; records of older runs lack some of the
 * others.
 */
const STEP_NUMBERS = [
  ...["step", "loss", "gradNorm", "lr", "tokens", "tokensPerSecond"],
  ...["peakBytes", "stepMs", "dataWaitRatio", "epoch"],
] as const;
const EVAL_NUMBERS = ["step", "loss"] as const;

export async function readRun(folder: string): Promise<RecordedRun> {
  const steps = join(folder, STEPS_FILE);
  const evals = join(folder, EVALS_FILE);
  const run = {
    steps: (await readRecords<StepRecord>(steps)).map((record, index) =>
      withNumbers(record, STEP_NUMBERS, `${steps}: record ${index + 1}`),
    ),
    evals: (await readRecords<EvalRecord>(evals)).map((record, index) =>
      withNumbers(record, EVAL_NUMBERS, `${evals}: record ${index + 1}`),
    ),
  };
  if (run.steps.length === 0) {
    throw new UserError(`${folder} holds no step of a run: ${steps} is missing or empty.`, {
      fix: "Name the output folder of a lorafit train that has done a step.",
    });
  }
  const memory = await readStepMemory(folder);
  return { ...run, memory, options: readYaml(join(folder, OPTIONS_FILE)).values };
}

/** Returns the record with NaN for null, which is how JSON writes a loss that is not a number. */
function withNumbers<R extends object>(record: R, fields: readonly string[], place: string): R {
  const values = Object.fromEntries(
    fields.map((field) => {
      const value = (record as Record<string, unknown>)?.[field];
      if (value !== null && typeof value !== "number") throw incomplete(place, field);
      return [field, value ?? Number.NaN];
    }),
  );
  return { ...record, ...values };
}

function incomplete(place: string, field: string): UserError {
  return new UserError(`${place} has no number "${field}".`, {
    fix: "Delete this line from the file. The report shows the other steps.",
  });
}
