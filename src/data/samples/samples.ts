/**
 * Dataset files to samples, each of which remembers the file and place that it came from. A list (`.txt`, lines of a
 * file and a count in thousands) names other files; `.json` holds an array of records, `.jsonl` one record a line.
 */
import { constants } from "node:buffer";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { faultOf, formatBytes, UserError } from "../../errors.ts";
import { type BadSample, badSample, badSamplesError, sampleError } from "./badSamples.ts";
import { type JsonFault, jsonFault } from "./jsonFault.ts";
import { parseRecord } from "./records.ts";

export interface SampleSource {
  file: string;
  /** Place within the file, from 0. */
  index: number;
  /** Line of a jsonl file, from 1. */
  line?: number;
}

export interface Turn {
  role: "user" | "assistant" | "system";
  /** Without whitespace at its ends; `<ImageHere>` stands for a picture. */
  text: string;
}

/** Pictures are absolute paths, in the order of their places in the text. */
export type Sample =
  | { kind: "dialogue"; source: SampleSource; turns: Turn[]; images: string[] }
  | {
      kind: "tokens";
      source: SampleSource;
      inputIds: Int32Array;
      labels: Int32Array;
      images: string[];
      hdNums?: number[];
    };

export interface DatasetFile {
  file: string;
  /** The count of a list's line, in thousands of draws; only official sampling looks at it. */
  thousands?: number;
}

export interface Dataset {
  files: DatasetFile[];
  samples: Sample[];
  /** Records that aren't samples at all. */
  bad: BadSample[];
}

const FORMS = "Datasets are .json, .jsonl and .txt lists of these.";

/** Everything in the files; throws UserError where a file is missing or can't be read as a whole. */
export function readDataset(paths: string | string[]): Dataset {
  const files = [paths].flat().flatMap((path) => (path.endsWith(".txt") ? readList(path) : [{ file: path }]));
  const records = files.flatMap(({ file }) => readFile(file));
  if (records.length === 0) {
    throw new UserError(`There are no samples in ${[paths].flat().join(", ")}.`, {
      fix: "Name a file with at least one record.",
    });
  }
  return {
    files,
    samples: records.filter((record) => "kind" in record),
    bad: records.filter((record) => "message" in record),
  };
}

/** The samples of the files; throws UserError on any record that isn't one. */
export function readSamples(paths: string | string[]): Sample[] {
  const { samples, bad } = readDataset(paths);
  if (bad.length > 0) throw badSamplesError(bad, samples.length + bad.length);
  return samples;
}

/** Lines of a path and, after the last space, a count; `#` starts a comment line. */
function readList(list: string): DatasetFile[] {
  const lines = readText(list).split("\n");
  return lines.flatMap((raw, index) => {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) return [];
    const [, path = line, count] = /^(.*\S)\s+(\S+)$/.exec(line) ?? [];
    const thousands = count === undefined ? undefined : Number(count);
    if (thousands === undefined || Number.isNaN(thousands)) return [{ file: locate(line, list) }];
    if (thousands > 0 && Number.isFinite(thousands)) return [{ file: locate(path, list), thousands }];
    throw new UserError(`${list}:${index + 1}: the count must be above 0 (got ${count}).`, {
      fix: "A line is a json file and the thousands of samples to draw from it: receipts.json 10",
    });
  });
}

/** A path of a file's text: beside that file where there is one, else from the working folder, as the official code has it. */
function locate(path: string, fromFile: string): string {
  const beside = resolve(dirname(fromFile), path);
  return !existsSync(beside) && existsSync(path) ? resolve(path) : beside;
}

function readFile(file: string): (Sample | BadSample)[] {
  const text = readText(file);
  return file.endsWith(".jsonl") ? readLines(file, text) : readArray(file, text);
}

function readLines(file: string, text: string): (Sample | BadSample)[] {
  if (/^\s*\[/.test(text)) {
    throw new UserError(`${file} holds an array, and a .jsonl file has one record a line.`, {
      fix: "Name it .json.",
    });
  }
  const lines = text.split("\n").map((content, index) => ({ content, line: index + 1 }));
  return lines
    .filter(({ content }) => content.trim() !== "")
    .map(({ content, line }, index) =>
      readRecord({ file, index, line }, (source) => parseLine(content, source)),
    );
}

function parseLine(content: string, source: SampleSource): unknown {
  const parsed = parseJson(content);
  if (parsed.ok) return parsed.value;
  const { column, expected } = parsed.fault;
  const clause = `isn't JSON: expected ${expected} at column ${column}`;
  throw sampleError(source, clause, "Each line of a jsonl file is one JSON object.");
}

function readArray(file: string, text: string): (Sample | BadSample)[] {
  const parsed = parseJson(text);
  if (!parsed.ok) {
    const { line, column, expected } = parsed.fault;
    const mend = holdsLines(text) ? "It has one record a line: name it .jsonl." : "Mend it there.";
    const fix = file.endsWith(".json") ? mend : FORMS;
    throw new UserError(`${file}:${line}:${column}: this isn't JSON: expected ${expected} here.`, { fix });
  }
  const { value } = parsed;
  if (Array.isArray(value)) return value.map((record, index) => readRecord({ file, index }, () => record));
  const kind = value === null ? "null" : typeof value;
  throw new UserError(`${file}: a dataset is an array of records, but this holds one ${kind}.`, {
    fix: "Put the records between [ and ], or write one a line into a .jsonl file.",
  });
}

/** Whether a text's first line is a whole record. */
function holdsLines(text: string): boolean {
  const [first = ""] = text.trimStart().split("\n", 1);
  return first.startsWith("{") && parseJson(first).ok;
}

type Parsed = { ok: true; value: unknown } | { ok: false; fault: JsonFault };

function parseJson(text: string): Parsed {
  try {
    return { ok: true, value: JSON.parse(text) };
  } catch (error) {
    const fault = jsonFault(text);
    if (!fault) throw error;
    return { ok: false, fault };
  }
}

function readRecord(source: SampleSource, parse: (source: SampleSource) => unknown): Sample | BadSample {
  try {
    const sample = parseRecord(parse(source), source);
    return { ...sample, images: sample.images.map((path) => locate(path, source.file)) };
  } catch (error) {
    return badSample(source, error);
  }
}

function readText(file: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    const list = join(file, "data.txt");
    throw new UserError(`The dataset ${file} can't be read: ${faultOf(error)}.`, {
      fix: existsSync(list)
        ? `Name the file in it: ${list}`
        : "Check the path; paths in a list are taken from the list's folder, then from the working folder.",
    });
  }
  if (bytes.length > constants.MAX_STRING_LENGTH) {
    throw new UserError(`${file} is too large for one file: ${formatBytes(bytes.length)}.`, {
      fix: `Split it into files below ${formatBytes(constants.MAX_STRING_LENGTH)}, and name them all.`,
    });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes); // leaves out a byte order mark
  } catch (error) {
    const fix = /\.(jsonl?|txt)$/.test(file) ? "Save it as UTF-8." : FORMS;
    throw new UserError(`${file} isn't UTF-8 text.`, { fix, cause: error });
  }
}
