/**
 * Reads text of dataset files, whole or line by line. A file that is read by lines may be larger than the
 * longest string of Node.
 */
import { constants } from "node:buffer";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { faultOf, formatBytes, UserError } from "../../errors.ts";

/**
 * Bytes of the longest line. A line is one record, perhaps with pictures in base64, and memory holds it
 * several times while it is parsed.
 */
const LINE_MAX_BYTES = 2 ** 26;

const CHUNK_BYTES = 2 ** 20;

const LINE_FEED = 0x0a;

/** Returns the text of a file. Throws a UserError if the file is missing, too large or no text. */
export function readText(file: string): string {
  const bytes = reading(file, () => {
    const { size } = statSync(file);
    if (size > constants.MAX_STRING_LENGTH) {
      throw new UserError(`${file} is too large to be read at once: ${formatBytes(size)}.`, {
        fix: "Write one record a line into a .jsonl file, which may be of any size.",
      });
    }
    return readFileSync(file);
  });
  if (bytes.length === 0) throw emptyFile(file);
  return decoded(bytes, file);
}

/** Yields the lines of a file that are not blank, with their numbers from 1. Throws as readText does. */
export function* linesOf(file: string): Generator<{ content: string; line: number }> {
  let line = 0;
  for (const bytes of linesOfBytes(file)) {
    line++;
    const content = decoded(bytes, `${file}:${line}:`);
    if (content.trim() !== "") yield { content, line };
  }
  if (line === 0) throw emptyFile(file);
}

function* linesOfBytes(file: string): Generator<Uint8Array> {
  const handle = reading(file, () => openSync(file, "r"));
  try {
    let parts: Uint8Array[] = [];
    let line = 1;
    for (;;) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const bytes = chunk.subarray(
        0,
        reading(file, () => readSync(handle, chunk, 0, CHUNK_BYTES, null)),
      );
      if (bytes.length === 0) break;
      let start = 0;
      for (let end = bytes.indexOf(LINE_FEED); end >= 0; end = bytes.indexOf(LINE_FEED, start)) {
        yield joined([...parts, bytes.subarray(start, end)]);
        parts = [];
        start = end + 1;
        line++;
      }
      if (start < bytes.length) parts.push(bytes.subarray(start));
      if (parts.length * CHUNK_BYTES > LINE_MAX_BYTES) {
        throw new UserError(`${file}:${line}: this line is longer than ${formatBytes(LINE_MAX_BYTES)}.`, {
          fix: "A .jsonl file has one record a line. Keep large pictures in files of their own.",
        });
      }
    }
    if (parts.length > 0) yield joined(parts);
  } finally {
    closeSync(handle);
  }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
}

/** Returns the text of UTF-8 bytes, without a byte order mark. */
function decoded(bytes: Uint8Array, place: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    const isText = /\.(jsonl?|txt):?(\d+:)?$/i.test(place);
    const fix = isText ? "Save it as UTF-8." : "Datasets are .json, .jsonl and .txt lists of these.";
    throw new UserError(`${place.replace(/:$/, ": this line")} isn't UTF-8 text.`, { fix, cause });
  }
}

function emptyFile(file: string): UserError {
  return new UserError(`${file} is empty.`, { fix: "Name a file with at least one record." });
}

/** Runs a read of a file. Errors of the system become a UserError that names the file. */
function reading<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`The dataset ${file} can't be read: ${faultOf(error)}.`, { fix: fileInstead(file) });
  }
}

/** Returns advice for a path that cannot be read: a file in the folder, if the path is a folder. */
function fileInstead(path: string): string {
  const list = join(path, "data.txt");
  if (existsSync(list)) return `Name the file in it: ${list}`;
  const found = existsSync(path) && statSync(path).isDirectory() ? readdirSync(path) : [];
  const data = found.filter((name) => /\.jsonl?$/i.test(name)).slice(0, 3);
  if (data.length > 0) return `Name a file in it: ${data.map((name) => join(path, name)).join(", ")}`;
  return "Check the path.";
}
