/** The form of a new run: fields from the schema of the training options, and errors in their words. */
import { existsSync, statSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import { resolveModel } from "../../../checkpoint/folder.ts";
import { UsageError, UserError } from "../../../errors.ts";
import { unitlessError } from "../../../memoryOption.ts";
import { flagOf, jsonSchemaOf, type OptionSpec, optionErrors, optionSpecs } from "../../../options.ts";
import { commandLine, quoted } from "../../../program.ts";
import { LOCK_FILE } from "../../../train/folder/runLock.ts";
import { OPTIONS_FILE } from "../../../train/folder/runLog.ts";
import { scaleCaution } from "../../../train/options/cautions.ts";
import { TrainOptions } from "../../../train/options/options.ts";
import { isBelow, realPathBelow } from "../../http/paths.ts";
import type { RunCheck, RunDraft, RunField, RunForm } from "./newRunApi.ts";

/** A new run is not resumed; the page continues a run by its own command. */
const LEFT_OUT = ["resume"];

const SPECS = optionSpecs(TrainOptions).filter(({ key }) => !LEFT_OUT.includes(key));

/** Returns the form. folder: FOLDER of `lorafit ui`. */
export function runForm(folder: string): RunForm {
  const { properties = {} } = jsonSchemaOf(TrainOptions);
  const groups = [...new Set(SPECS.map(({ group }) => group))];
  const fieldsOf = (name: string): RunField[] =>
    SPECS.filter(({ group }) => group === name).map((spec) => fieldOf(spec, properties[spec.key]));
  return { folder, groups: groups.map((name) => ({ name, fields: fieldsOf(name) })) };
}

function fieldOf(spec: OptionSpec, property: unknown): RunField {
  const { key, flag, kind, numeric, many, required, help, takes, value } = spec;
  const preset = presetOf(spec);
  const choices = (property as { enum?: unknown[] }).enum?.map(String);
  return {
    ...{ key, flag, kind, numeric, many, required, help, takes, value },
    ...(preset !== undefined && { preset }),
    ...(choices && { choices }),
  };
}

function presetOf({ default: preset }: OptionSpec): string | undefined {
  if (preset === undefined || (Array.isArray(preset) && preset.length === 0)) return undefined;
  const isSmall = typeof preset === "number" && preset !== 0 && Math.abs(preset) < 1e-3;
  return isSmall ? preset.toExponential() : [preset].flat().join(" ");
}

/** Returns the options that a draft gives, as flags would give them. Fields of no option stay as they are. */
export function givenOptions({ options }: RunDraft): Record<string, unknown> {
  const entries = Object.entries(options).flatMap(([key, value]): [string, unknown][] => {
    const given = givenValue(
      SPECS.find((spec) => spec.key === key),
      value,
    );
    return given === undefined ? [] : [[key, given]];
  });
  return Object.fromEntries(entries);
}

function givenValue(spec: OptionSpec | undefined, value: string | boolean | string[]): unknown {
  if (Array.isArray(value)) {
    const items = value.map((item) => item.trim()).filter(Boolean);
    return items.length > 0 ? items : undefined;
  }
  if (typeof value === "boolean") return value === spec?.default ? undefined : value;
  const text = value.trim();
  if (text === "") return undefined;
  if (spec?.many) return [text];
  return spec?.numeric && !Number.isNaN(Number(text)) ? Number(text) : text;
}

/** Checks a draft as the command line does, and that its files are there. folder: as for runForm. */
export function checkDraft(draft: RunDraft, folder: string): RunCheck {
  const raw = givenOptions(draft);
  const errors = new Map([...fileErrors(raw, folder), ...optionErrors(TrainOptions, raw, flagOf)]);
  for (const key of LEFT_OUT)
    if (raw[key] !== undefined)
      errors.set(
        key,
        new UserError(`${flagOf(key)} is no option of a new run.`, {
          fix: "Copy the command that continues a run from its own screen.",
        }),
      );
  for (const key of ["memory", "host_memory"]) {
    const bytes = Number(raw[key]); // a text without a unit
    const [error] = Number.isNaN(bytes) ? [] : unitlessError(flagOf(key), bytes, raw[key]);
    if (error && !errors.has(key)) errors.set(key, error);
  }
  return {
    errors: Object.fromEntries(
      [...errors].map(([key, { message: error, fix }]) => [
        key,
        { error, ...(fix !== undefined && { fix }) },
      ]),
    ),
    cautions: errors.size > 0 ? [] : cautionsOf(raw),
    command: commandLine(`train ${flagsOf(raw).map(quoted).join(" ")}`),
  };
}

function cautionsOf(raw: Record<string, unknown>): string[] {
  const caution = scaleCaution(TrainOptions.parse(raw));
  return caution === undefined ? [] : [caution];
}

/** Returns the flags of options: each value joined by "=", so that none is mistaken for a flag. */
export function flagsOf(raw: Record<string, unknown>): string[] {
  return Object.entries(raw).flatMap(([key, value]) => {
    const flag = flagOf(key);
    if (value === true) return [flag];
    if (value === false) return [flag.replace("--", "--no-")];
    return [value].flat().map((item) => `${flag}=${item}`);
  });
}

function fileErrors(raw: Record<string, unknown>, folder: string): Map<string, UserError> {
  const errors = new Map<string, UserError>();
  const check = (key: string, body: () => void): void => {
    try {
      if (raw[key] !== undefined || key === "output") body();
    } catch (thrown) {
      if (!(thrown instanceof UserError)) throw thrown;
      errors.set(key, thrown);
    }
  };
  check("model", () => {
    const path = resolve(folder, String(raw.model));
    resolveModel(existsSync(path) ? path : String(raw.model));
  });
  for (const key of ["data", "eval_data"])
    check(key, () => {
      for (const file of [raw[key]].flat()) requireFile(String(file), folder);
    });
  check("adapter", () => {
    if (existsSync(join(resolve(folder, String(raw.adapter)), "adapter_config.json"))) return;
    throw new UserError(`There is no adapter in ${raw.adapter}: adapter_config.json is missing.`, {
      fix: "Name the folder of a PEFT adapter.",
    });
  });
  check("output", () => void newOutput(folder, outputOf(raw)));
  return errors;
}

function requireFile(file: string, folder: string): void {
  const path = resolve(folder, file);
  if (!existsSync(path))
    throw new UserError(`${file} cannot be read: there is no such file.`, {
      fix: `Paths start from ${folder}.`,
    });
  if (statSync(path).isDirectory())
    throw new UserError(`${file} cannot be read: it is a folder.`, {
      fix: "Name a .json, .jsonl or .txt file.",
    });
}

/**
 * Returns the path of a new run's output folder below `folder`. Throws UserError if it lies outside, where
 * the page does not see it, or if it holds a run already.
 */
export function newOutput(folder: string, output: string): string {
  const path = resolve(folder, output);
  if (!isBelow(folder, path) || path === folder || output.includes("\0") || !leadsBelow(folder, path))
    throw new UserError(`${output} is not below ${folder}, so the page could not show the run.`, {
      fix: "Name a new folder below it, such as runs/1.",
    });
  if (existsSync(join(path, OPTIONS_FILE)) || existsSync(join(path, LOCK_FILE)))
    throw new UserError(`${output} holds a run.`, {
      fix: `Name a new folder, or continue that run: ${commandLine(`train --resume ${quoted(output)}`)}`,
    });
  return path;
}

/** Returns whether the nearest folder that exists on the way to a path is a folder below `folder`. */
function leadsBelow(folder: string, path: string): boolean {
  for (let at = path; at !== folder; at = resolve(at, "..")) {
    if (!existsSync(at)) continue;
    const real = realPathBelow(folder, at);
    return real !== undefined && statSync(real).isDirectory();
  }
  return true;
}

/** Returns the output folder that options name. */
export function outputOf({ output }: Record<string, unknown>): string {
  return String(output ?? SPECS.find(({ key }) => key === "output")?.default);
}

/** Returns a path below the folder as routes spell it, with `/`. */
export function pathBelow(folder: string, path: string): string {
  return relative(folder, path).replaceAll(sep, "/");
}

/** Throws one error for all that is wrong with a draft. */
export function refuseWrong({ errors }: RunCheck): void {
  const found = Object.values(errors);
  if (found.length === 0) return;
  throw new UsageError(found.map(({ error }) => error).join("\n"), {
    fix:
      found
        .map(({ fix }) => fix ?? "")
        .join("\n")
        .trim() || "Correct them.",
  });
}
