/** A YAML configuration -> raw option values by key; errors carry file, line and column. */
import { readFileSync } from "node:fs";
import { type Document, isMap, isScalar, LineCounter, type Pair, parseDocument } from "yaml";
import { faultOf, messageOf, UserError } from "../../errors.ts";
import type { OptionSpec } from "../../options.ts";
import { didYouMean } from "./didYouMean.ts";

export interface Config {
  raw: Record<string, unknown>;
  /** How an error names an option: "train.yaml:3:9: lora_r", or "train.yaml: model" where the file does not give it. */
  spell: (key: string) => string;
}

/** Reads and parses; values are left to parseOptions, keys that no option has are refused here. */
export function readConfig(file: string, specs: OptionSpec[]): Config {
  const lines = new LineCounter();
  const document = parseDocument(readText(file), { lineCounter: lines, prettyErrors: false });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  const [fault] = document.errors;
  if (fault) throw new UserError(`${at(fault.pos[0])}: ${fault.message}`, { fix: "Mend the YAML there." });
  if (document.contents === null) return { raw: {}, spell: (key) => `${file}: ${key}` };
  if (!isMap(document.contents)) {
    throw new UserError(`${file} is not a list of options.`, { fix: 'Write one a line, as "lora_r: 16".' });
  }
  const offsets = new Map<string, number>();
  for (const pair of document.contents.items) {
    const { key, keyOffset, valueOffset } = located(pair);
    if (!specs.some((spec) => spec.key === key)) throw unknownKey(at(keyOffset), key, specs);
    offsets.set(key, valueOffset);
  }
  const spell = (key: string): string => {
    const offset = offsets.get(key);
    return offset === undefined ? `${file}: ${key}` : `${at(offset)}: ${key}`;
  };
  return { raw: withoutNulls(valuesOf(document, file)), spell };
}

function readText(file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw new UserError(`${file} cannot be read: ${faultOf(cause)}.`, {
      fix: "Pass the path of a YAML file with training options.",
      cause,
    });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UserError(`${file} isn't UTF-8 text.`, { fix: "Save it as UTF-8.", cause });
  }
}

/** Throws UserError for what only reading its values shows, as an alias of nothing. */
function valuesOf(document: Document, file: string): Record<string, unknown> {
  try {
    return document.toJS();
  } catch (cause) {
    throw new UserError(`${file}: ${messageOf(cause)}.`, { fix: "Mend the YAML there.", cause });
  }
}

function located({ key, value }: Pair): { key: string; keyOffset: number; valueOffset: number } {
  const keyOffset = (isScalar(key) && key.range?.[0]) || 0;
  const range = (value as { range?: [number, number, number] } | null)?.range;
  return { key: String(isScalar(key) ? key.value : key), keyOffset, valueOffset: range?.[0] ?? keyOffset };
}

function unknownKey(place: string, key: string, specs: OptionSpec[]): UserError {
  const names = specs.flatMap((spec) =>
    [spec.key, ...spec.aliases].map((name): [string, string] => [name, spec.key]),
  );
  const near = didYouMean(key, names);
  return new UserError(`${place}: ${key} is not an option.`, {
    fix: near ? `Did you mean ${near}?` : `Options are ${specs.map((spec) => spec.key).join(", ")}.`,
  });
}

/** A key without a value ("memory:") is as good as absent. */
function withoutNulls(raw: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(raw).filter(([, value]) => value !== null));
}
