/**
 * Reads a YAML configuration into raw option values by key, with all errors of its keys. parseOptions checks
 * the values.
 */
import { UsageError, type UserError } from "../../errors.ts";
import type { OptionSpec } from "../../options.ts";
import { didYouMean } from "./didYouMean.ts";
import { namesOf } from "./flags.ts";
import { readYaml, type YamlKey } from "./yamlFile.ts";

/** A search for a near name takes a millisecond, and a file may have thousands of keys. */
const MOST_SUGGESTED = 12;

export interface Config {
  raw: Record<string, unknown>;
  /** Keys that are not options, and options that are given twice with two values. */
  errors: UserError[];
  /**
   * How an error names an option: "train.yaml:3:9: lora_r", or "train.yaml: model" if the file does not give
   * it.
   */
  spell: (key: string) => string;
}

/**
 * Reads a file whose keys are named as flags are: lora_r, lora-r, and the official names. Throws UsageError
 * if it is not YAML.
 */
export function readConfig(file: string, specs: OptionSpec[]): Config {
  const { values, keys } = readYaml(file);
  const names = namesOf(specs);
  const given = new Map<string, YamlKey>();
  const raw: Record<string, unknown> = {};
  const errors: UserError[] = [];
  for (const key of keys) {
    const spec = names.get(key.name);
    const value = values[key.name];
    if (spec === undefined) errors.push(unknownKey(key, errors.length < MOST_SUGGESTED ? specs : []));
    else if (value !== undefined) {
      const before = given.get(spec.key);
      if (before && raw[spec.key] !== value) errors.push(twoValues(before, key));
      raw[spec.key] = value;
    }
    if (spec) given.set(spec.key, key);
  }
  const spell = (key: string): string => {
    const written = given.get(key);
    return written ? `${written.valuePlace}: ${written.name}` : `${file}: ${key}`;
  };
  return { raw, errors, spell };
}

function unknownKey({ place, name }: YamlKey, specs: OptionSpec[]): UserError {
  const names = specs.flatMap((spec) =>
    [spec.key, ...spec.aliases].map((known): [string, string] => [known, spec.key]),
  );
  const near = didYouMean(name, names);
  const options = specs.filter(({ help }) => help !== "").map(({ key }) => key);
  return new UsageError(`${place}: ${name} is not an option.`, {
    fix: near ? `Did you mean ${near}?` : `Options are ${options.join(", ")}.`,
  });
}

function twoValues(before: YamlKey, { place, name }: YamlKey): UserError {
  return new UsageError(`${place}: ${name} and ${before.name} give the same option two values.`, {
    fix: "Leave one of them out.",
  });
}
