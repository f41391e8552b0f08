/** The configuration of a trial's run, and the command that trains it again. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { flagOf } from "../options.ts";
import { commandLine, quoted } from "../program.ts";
import type { Trial } from "../runs/sweepTable.ts";
import { trialOptions } from "./space/space.ts";

/** Options that name files or folders. */
const PATHS = ["model", "adapter", "data", "eval_data", "policy"];

type Options = Record<string, unknown>;

/** Returns options with paths that hold from any working folder; a name of a downloaded model stays. */
export function withWholePaths(options: Options): Options {
  const whole = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(whole)
      : typeof value === "string" && existsSync(value)
        ? resolve(value)
        : value;
  return Object.fromEntries(
    Object.entries(options).map(([key, value]) => [key, PATHS.includes(key) ? whole(value) : value]),
  );
}

/** Returns all options of a trial, without those of its folder. */
export function optionsOf(base: Options, { options }: Pick<Trial, "options">): Options {
  return withWholePaths(trialOptions({ ...base, ...options }));
}

/** Returns the line that trains a trial up to its best evaluation, into a new folder. */
export function reproduceLine(
  options: Options,
  { bestStep, totalSteps }: Pick<Trial, "bestStep" | "totalSteps">,
): string {
  const isWhole = bestStep === null || bestStep === totalSteps;
  const asked = isWhole
    ? options
    : { ...options, eval_every: options.eval_every ?? bestStep, stop_at_step: bestStep };
  const flags = Object.entries({ ...asked, output: "best-again" }).map(([key, value]) => flagFor(key, value));
  return commandLine(`train ${flags.join(" ")}`);
}

function flagFor(key: string, value: unknown): string {
  if (typeof value === "boolean") return value ? flagOf(key) : flagOf(`no_${key}`);
  const words = [value].flat().map((one) => (typeof one === "object" ? JSON.stringify(one) : String(one)));
  return [flagOf(key), ...words.map(quoted)].join(" ");
}
