/** Reads a YAML file of options: its values, and the line and column of each. */
import { readFileSync } from "node:fs";
import {
  type Document,
  isMap,
  isScalar,
  LineCounter,
  type Pair,
  parseDocument,
  visit,
  type YAMLMap,
} from "yaml";
import { faultOf, formatBytes, joinedErrors, messageOf, UsageError } from "../../errors.ts";
import { shownName } from "../../printable.ts";

export interface YamlFile {
  /** Values by key; a key without a value ("memory:") is left out. */
  values: Record<string, unknown>;
  keys: YamlKey[];
}

export interface YamlKey {
  name: string;
  /** "train.yaml:3:1". */
  place: string;
  /** Place of the value. */
  valuePlace: string;
}

/** The longest configuration that people write has a few thousand bytes. */
const MOST_BYTES = 2 ** 18;

/** Throws UsageError if the file can't be read, or is not a list of keys and values. */
export function readYaml(file: string): YamlFile {
  const text = readText(file);
  const lines = new LineCounter();
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${line}:${col}`;
  };
  const document = parsed(text, file, lines);
  refuse(
    document.errors.map(({ pos, message }) => [at(pos[0]), message]),
    "Correct the YAML there.",
  );
  if (document.contents === null) return { values: {}, keys: [] };
  if (!isMap(document.contents)) {
    throw new UsageError(`${file} is not a list of options.`, { fix: 'Write one a line, as "lora_r: 16".' });
  }
  refuse(
    repeatedKeys(document).map(({ name, offset }) => [at(offset), `${name} is given twice.`]),
    "Leave one of them out.",
  );
  const keys = document.contents.items.map((pair) => {
    const { name, offset, valueOffset } = located(pair);
    return { name, place: at(offset), valuePlace: at(valueOffset) };
  });
  const values = Object.entries(valuesOf(document, file)).filter(([, value]) => value !== null);
  return { values: Object.fromEntries(values), keys };
}

/** Throws one error for all faults, if there are any. */
function refuse(faults: [place: string, fault: string][], fix: string): void {
  const [first, ...others] = faults.map(([place, fault]) => new UsageError(`${place}: ${fault}`, { fix }));
  if (first) throw joinedErrors([first, ...others], "places");
}

function parsed(text: string, file: string, lineCounter: LineCounter): Document {
  try {
    // its own search for repeated keys compares each with each
    return parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: false });
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new UsageError(`${file} is nested too deep.`, {
      fix: 'Write one option a line, as "lora_r: 16".',
      cause,
    });
  }
}

function readText(file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throw new UsageError(`${file} cannot be read: ${faultOf(cause)}.`, {
      fix: "Pass the path of a YAML file with training options.",
      cause,
    });
  }
  if (bytes.length > MOST_BYTES) {
    throw new UsageError(`${file} has ${formatBytes(bytes.length)}, more than any configuration.`, {
      fix: "Pass the path of a YAML file with training options.",
    });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new UsageError(`${file} isn't UTF-8 text.`, { fix: "Save it as UTF-8.", cause });
  }
}

/** Throws UsageError for what only reading its values shows, such as an alias of nothing. */
function valuesOf(document: Document, file: string): Record<string, unknown> {
  try {
    return document.toJS();
  } catch (cause) {
    throw new UsageError(`${file}: ${messageOf(cause)}.`, { fix: "Correct the YAML there.", cause });
  }
}

interface Located {
  name: string;
  offset: number;
  valueOffset: number;
}

/** Keys that their map has before, at any depth. */
function repeatedKeys(document: Document): Located[] {
  const repeated: Located[] = [];
  const check = (map: YAMLMap): void => {
    const names = new Set<string>();
    for (const key of map.items.map(located)) {
      if (names.has(key.name)) repeated.push(key);
      names.add(key.name);
    }
  };
  visit(document, { Map: (_, map) => check(map) });
  return repeated;
}

function located({ key, value }: Pair): Located {
  const offset = (isScalar(key) && key.range?.[0]) || 0;
  const range = (value as { range?: [number, number, number] } | null)?.range;
  const name = shownName(String(isScalar(key) ? key.value : key));
  return { name, offset, valueOffset: range?.[0] ?? offset };
}
