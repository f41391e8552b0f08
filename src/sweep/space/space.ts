/** The options of a sweep's trials: those that all share, and the values of those that differ. */
import { UsageError, type UserError } from "../../errors.ts";
import { unitlessError } from "../../memoryOption.ts";
import { type OptionSpec, optionErrors, optionSpecs } from "../../options.ts";

import { TrainOptions } from "../../train/options/options.ts";
import { RECIPES, type RecipeName } from "../../train/options/recipes.ts";
import { type Values, valuesOf } from "./values.ts";

export interface Space {
  /** Options that all trials share. */
  base: Record<string, unknown>;
  /** Options that differ, in the order in which they were given. */
  axes: Axis[];
}

export interface Axis {
  key: string;
  values: Exclude<Values, { kind: "fixed" }>;
}

/** Options of a training run that a sweep sets itself. */
const OWN = new Set(["output", "resume", "stop_at_step", "memory_snapshot", "gpus", "cpu_ranks"]);

/** Training options that may be given to a sweep, each with one value, a list or a range. */
export const TRIAL_SPECS: OptionSpec[] = optionSpecs(TrainOptions)
  .filter(({ key }) => !OWN.has(key))
  .map((spec) => ({ ...spec, required: false }));

/**
 * Values of a sweep in which nothing differs. The learning rates begin at the official one for LoRA; which is
 * best depends on rank and alpha (docs/training.md).
 */
const USUAL: Record<string, unknown[]> = {
  lora_r: [4, 8, 16, 32],
  lora_alpha: ["1x", "2x"],
  learning_rate: [5e-5, 1e-4, 2e-4, 4e-4],
};

/** Reads options by key, and returns all errors beside the space. `spell` names an option in an error. */
export function readSpace(
  raw: Record<string, unknown>,
  spell: (key: string) => string,
): { space: Space; errors: UserError[] } {
  const space: Space = { base: {}, axes: [] };
  const errors: UserError[] = [];
  const add = (key: string, value: unknown): void => {
    const values = readValues(key, value, spell, errors);
    if (values?.kind === "fixed") space.base[key] = values.value;
    else if (values) space.axes.push({ key, values });
  };
  for (const [key, value] of Object.entries(raw)) add(key, value);
  if (errors.length === 0 && space.axes.length === 0) {
    const open = Object.keys(USUAL).filter((key) => !(key in raw) && isOpen(key, raw));
    for (const key of open) add(key, USUAL[key]);
    if (open.length === 0) errors.push(nothingDiffers());
  }
  return { space, errors: [...errors, ...wrongValues(space, spell)] };
}

/** An adapter to start from brings its own rank and alpha. */
function isOpen(key: string, { adapter }: Record<string, unknown>): boolean {
  return key === "learning_rate" || adapter === undefined;
}

function readValues(
  key: string,
  raw: unknown,
  spell: (key: string) => string,
  errors: UserError[],
): Values | undefined {
  const spec = TRIAL_SPECS.find((known) => known.key === key);
  if (!spec) {
    errors.push(new UsageError(`${spell(key)} is not an option of a sweep.`, { fix: "Leave it out." }));
    return undefined;
  }
  try {
    return valuesOf(raw, spec, spell(key));
  } catch (thrown) {
    if (!(thrown instanceof UsageError)) throw thrown;
    errors.push(thrown);
    return undefined;
  }
}

function nothingDiffers(): UsageError {
  return new UsageError("Nothing differs between the trials of this sweep.", {
    fix: "Give an option several values, as in --lora-r 4,8,16 or learning_rate: [5e-5, 1e-4].",
  });
}

/** Checks each value of each option, beside the first values of all others. */
function wrongValues({ base, axes }: Space, spell: (key: string) => string): UserError[] {
  const first = Object.fromEntries(axes.map(({ key, values }) => [key, triedOf(values)[0]]));
  const trials = axes.flatMap(({ key, values }) =>
    triedOf(values).map((value) => ({ ...base, ...first, [key]: value })),
  );
  const found = (trials.length > 0 ? trials : [base]).flatMap((options) => [
    ...optionErrors(TrainOptions, trialOptions(options), spell).values(),
    ...["memory", "host_memory"].flatMap((key) => unitlessError(spell(key), options[key])),
  ]);
  return [...new Map(found.map((error) => [error.message, error])).values()];
}

/** Returns the values to check: all of a list, the ends of a range. */
function triedOf(values: Axis["values"]): unknown[] {
  return values.kind === "list" ? values.values : [values.from, values.to];
}

/** Matches a multiple of the rank: "2x". */
const MULTIPLE = /^(\d+(?:\.\d+)?)x$/i;

/** Returns options with an alpha that is written as a multiple of the rank, "2x", as a number. */
export function trialOptions(options: Record<string, unknown>): Record<string, unknown> {
  const { lora_alpha, recipe = "lorafit" } = options;
  const [, factor] = typeof lora_alpha === "string" ? (MULTIPLE.exec(lora_alpha.trim()) ?? []) : [];
  if (factor === undefined) return options;
  const rank = options.lora_r ?? RECIPES[recipe as RecipeName]?.lora_r;
  return typeof rank === "number" ? { ...options, lora_alpha: Number(factor) * rank } : options;
}
