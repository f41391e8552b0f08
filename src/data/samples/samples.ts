/**
 * Reads dataset files into samples, which keep their file and place. A list (`.txt`) names other files, each
 * with a count in thousands. `.json` holds an array of records, `.jsonl` one record a line.
 */
import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { UserError } from "../../errors.ts";
import { shownName } from "../../printable.ts";
import { type JsonFault, jsonFault } from "../records/jsonFault.ts";
import { linesOf, readText } from "../records/lines.ts";
import { RecordFault } from "../records/recordFault.ts";
import { parseRecord } from "../records/records.ts";
import type { UnusedFields } from "../records/turns.ts";
import { type BadSample, badRecord, badSamplesError } from "./badSamples.ts";
import type { Sample, SampleSource } from "./sample.ts";

export interface DatasetFile {
  file: string;
  /** Thousands of draws, from the list's line; only official sampling reads them. */
  thousands?: number;
}

export interface Dataset {
  files: DatasetFile[];
  samples: Sample[];
  /** Records that aren't samples at all. */
  bad: BadSample[];
  /** One line for each file with fields that are not read. */
  warnings?: string[];
}

const FORMS = "Datasets are .json, .jsonl and .txt lists of these.";

/** A file to read. Its paths may also start from the folder of the list that names it. */
interface ListedFile extends DatasetFile {
  listFolder?: string;
}

/** Reads everything in the files. Throws a UserError if a file is missing or cannot be read as a whole. */
export function readDataset(paths: string | string[]): Dataset {
  return withoutStacks(() => readFiles([paths].flat()));
}

/** Runs a read whose errors keep no stack. With 100,000 bad records, stacks would take most of the time. */
function withoutStacks<T>(read: () => T): T {
  const { stackTraceLimit } = Error;
  try {
    Error.stackTraceLimit = 0;
    return read();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

/**
 * Reads the records of the files one after the other, so that a large .jsonl file is never held whole.
 * onFile: gets each file's number of records when it is known, which a .jsonl file does not say. Throws as
 * readDataset does.
 */
export function* recordsOf(
  paths: readonly string[],
  { onFile, onWarning }: { onFile?: (records: number) => void; onWarning?: (text: string) => void } = {},
): Generator<Sample | BadSample> {
  for (const listed of listedFiles(paths)) {
    const unused: UnusedFields = new Set();
    yield* readFile(listed, unused, onFile);
    if (unused.size > 0) onWarning?.(unusedFields(listed.file, unused));
  }
}

/** Returns the files that hold the records of the paths: lists name others. */
export function recordFiles(paths: readonly string[]): string[] {
  return listedFiles(paths).map(({ file }) => file);
}

/** Returns the files of the paths, with those of lists in the lists' place. */
function listedFiles(paths: readonly string[]): ListedFile[] {
  return paths.flatMap((path) => (hasEnding(path, ".txt") ? readList(path) : [{ file: path }]));
}

function readFiles(paths: readonly string[]): Dataset {
  const files = listedFiles(paths);
  const samples: Sample[] = [];
  const bad: BadSample[] = [];
  const warnings: string[] = [];
  for (const listed of files) {
    const unused: UnusedFields = new Set();
    for (const record of readFile(listed, unused)) {
      if ("kind" in record) samples.push(record);
      else bad.push(record);
    }
    if (unused.size > 0) warnings.push(unusedFields(listed.file, unused));
  }
  if (samples.length + bad.length === 0) {
    throw new UserError(`There are no samples in ${paths.join(", ")}.`, {
      fix: "Name a file with at least one record.",
    });
  }
  return { files: files.map(({ listFolder: _, ...file }) => file), samples, bad, warnings };
}

/** Returns the samples of the files. Throws a UserError if any record is no sample. */
export function readSamples(paths: string | string[]): Sample[] {
  const { samples, bad } = readDataset(paths);
  if (bad.length > 0) throw badSamplesError(bad, samples.length + bad.length);
  return samples;
}

function hasEnding(path: string, ending: string): boolean {
  return path.toLowerCase().endsWith(ending);
}

/** Reads a list: lines of a path and, after the last space, a count. `#` starts a comment line. */
function readList(list: string): ListedFile[] {
  const listFolder = dirname(resolve(list));
  const lines = readText(list).split("\n");
  return lines.flatMap((raw, index): ListedFile[] => {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) return [];
    const space = line.search(/\s\S*$/);
    const count = line.slice(space + 1);
    const place = `${list}:${index + 1}`;
    const thousands = space < 0 ? Number.NaN : Number(count);
    if (Number.isNaN(thousands)) return [{ file: listedFile(line, place), listFolder }];
    const path = line.slice(0, space).trimEnd();
    if (thousands > 0 && Number.isFinite(thousands))
      return [{ file: listedFile(path, place), thousands, listFolder }];
    throw new UserError(`${place}: the count must be above 0 (got ${count}).`, {
      fix: "A line is a json file and the thousands of samples to draw from it: receipts.json 10",
    });
  });
}

/** Returns the file that a line of a list names. place: the line, as "data.txt:3". */
function listedFile(path: string, place: string): string {
  const list = place.slice(0, place.lastIndexOf(":"));
  const file = locate(path, [dirname(resolve(list))]);
  if (existsSync(file)) return file;
  throw new UserError(`${place}: there is no file ${path}.`, {
    fix: "Correct the path there; it begins in the list's folder, or else in the working folder.",
  });
}

/**
 * Returns where a path of a file's text leads: to the first of the folders that has it, else to the working
 * folder, as in the official code.
 */
function locate(path: string, folders: readonly string[]): string {
  const places = [...folders, "."].map((folder) => resolve(folder, path));
  return places.find((place) => existsSync(place)) ?? (places[0] as string);
}

/** Most names kept for one file. In some data sets every record has keys of its own. */
const KEPT_NAMES = 1000;
const SHOWN_NAMES = 8;

function unusedFields(file: string, unused: UnusedFields): string {
  const names = [...unused].slice(0, SHOWN_NAMES).map(shownName);
  const more = unused.size > SHOWN_NAMES ? ` and ${unused.size - SHOWN_NAMES} more` : "";
  return `${file}: these fields are not read: ${names.join(", ")}${more}`;
}

function* readFile(
  listed: ListedFile,
  unused: UnusedFields,
  onFile?: (records: number) => void,
): Generator<Sample | BadSample> {
  const { file, listFolder } = listed;
  const folders = [dirname(file), ...(listFolder === undefined ? [] : [listFolder])];
  const read = (source: SampleSource, parse: () => unknown): Sample | BadSample => {
    try {
      const { sample, unused: names } = parseRecord(parse(), source);
      for (const name of names) if (unused.size < KEPT_NAMES) unused.add(name);
      return { ...sample, images: sample.images.map((path) => locatePicture(path, folders)) };
    } catch (fault) {
      if (!(fault instanceof RecordFault)) throw fault;
      return badRecord(source, fault);
    }
  };
  if (!hasEnding(file, ".jsonl")) {
    const records = readArray(file);
    onFile?.(records.length);
    for (const [index, record] of records.entries()) yield read({ file, index }, () => record);
    return;
  }
  let index = 0;
  for (const { content, line } of linesOf(file)) {
    if (index === 0) refuseArray(file, content);
    const source = { file, index: index++, line };
    yield read(source, () => parseLine(content));
  }
}

function locatePicture(path: string, folders: readonly string[]): string {
  return path.startsWith("data:") ? path : locate(path, folders);
}

/** Refuses a .jsonl file that holds an array over several lines. */
function refuseArray(file: string, firstLine: string): void {
  if (!firstLine.trimStart().startsWith("[")) return;
  throw new UserError(`${file} holds an array, and a .jsonl file has one record a line.`, {
    fix: "Name it .json.",
  });
}

function parseLine(content: string): unknown {
  const parsed = parseJson(content);
  if (parsed.ok) return parsed.value;
  const { column, expected } = parsed.fault;
  const clause = `isn't JSON: expected ${expected} at column ${column}`;
  throw new RecordFault(clause, "Each line of a jsonl file is one JSON object.");
}

function readArray(file: string): unknown[] {
  const text = readText(file);
  const parsed = parseJson(text);
  if (!parsed.ok) {
    const { line, column, expected } = parsed.fault;
    const change = holdsLines(text) ? "It has one record a line: name it .jsonl." : "Correct it there.";
    const fix = hasEnding(file, ".json") ? change : FORMS;
    throw new UserError(`${file}:${line}:${column}: this isn't JSON: expected ${expected} here.`, { fix });
  }
  const { value } = parsed;
  if (Array.isArray(value)) return value;
  const kind = value === null ? "null" : typeof value;
  throw new UserError(`${file}: a dataset is an array of records, but this holds one ${kind}.`, {
    fix: "Put the records between [ and ], or write one a line into a .jsonl file.",
  });
}

/** Returns whether a text's first line is a whole record. */
function holdsLines(text: string): boolean {
  const [first = ""] = text.trimStart().split("\n", 1);
  return first.startsWith("{") && parseJson(first).ok;
}

type Parsed = { ok: true; value: unknown } | { ok: false; fault: JsonFault };

function parseJson(text: string): Parsed {
  try {
    return { ok: true, value: JSON.parse(text) };
  } catch {
    return { ok: false, fault: jsonFault(text) };
  }
}
