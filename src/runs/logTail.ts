/**
 * Reads what has been appended to a log since the last time. A cursor names a place in the log by its offset
 * and by a hash of the bytes before, so it holds as long as these bytes stand there: a log that began anew,
 * or went back to a checkpoint, is noticed.
 */
import { createHash } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";

/** Place in a log: "2f9_1b2c3d4e5f607182"; "" is its beginning. No comma, colon or dot is in it. */
export type Cursor = string;

export interface Appended {
  /** Whole lines, each with its line end; empty if nothing was appended. */
  bytes: Buffer;
  next: Cursor;
  /** Set if the cursor held no longer: the lines are from the beginning of the log. */
  isReset: boolean;
  /** Bytes of the log after `next`, with a last line that is not complete. */
  leftBytes: number;
}

/** Bytes that one call reads at most, unless a single line is longer. */
export const CHUNK_BYTES = 2 ** 18;
/** A longer line is no record of ours; it is skipped. */
const MOST_LINE_BYTES = 2 ** 24;
/** Bytes before the cursor that are hashed. They end a record, whose times hardly repeat. */
const HASHED_BYTES = 256;

const LINE_END = 10;

/** Reads whole lines after the cursor; none if there is no such file. */
export function readAppended(path: string, cursor: Cursor = "", mostBytes = CHUNK_BYTES): Appended {
  const file = openLog(path);
  if (file === undefined) return { bytes: Buffer.alloc(0), next: "", isReset: cursor !== "", leftBytes: 0 };
  try {
    const { size } = fstatSync(file);
    const offset = offsetOf(cursor);
    const isReset = cursor !== "" && (offset === 0 || offset > size || cursorAt(file, offset) !== cursor);
    const start = isReset ? 0 : offset;
    const { bytes, skipped } = linesFrom(file, start, size, mostBytes);
    const end = start + skipped + bytes.length;
    const next = end === offset && !isReset ? cursor : end === 0 ? "" : cursorAt(file, end);
    return { bytes, next, isReset, leftBytes: size - end };
  } finally {
    closeSync(file);
  }
}

/** Returns the number of bytes before a cursor; 0 for what is no cursor. */
export function offsetOf(cursor: Cursor): number {
  return /^[\da-z]{1,10}_[\da-f]{16}$/.test(cursor) ? Number.parseInt(cursor, 36) : 0;
}

/** Reads the whole lines within the last `mostBytes` of a log, oldest first. */
export function readLastLines(path: string, mostBytes = 2 ** 14): string[] {
  const file = openLog(path);
  if (file === undefined) return [];
  try {
    const { size } = fstatSync(file);
    const place = Math.max(0, size - mostBytes);
    const text = read(file, place, size - place).toString("utf8");
    const start = place === 0 ? 0 : text.indexOf("\n") + 1;
    return text
      .slice(start, text.lastIndexOf("\n") + 1)
      .split("\n")
      .slice(0, -1);
  } finally {
    closeSync(file);
  }
}

/** Reads the whole line after each of `count` places that divide the log evenly. */
export function readSampledLines(path: string, count: number, mostBytes = 2 ** 12): string[] {
  const file = openLog(path);
  if (file === undefined) return [];
  try {
    const { size } = fstatSync(file);
    const scratch = Buffer.allocUnsafe(mostBytes);
    return Array.from({ length: count }, (_, at) => {
      const place = Math.floor((size * at) / count);
      const bytes = scratch.subarray(0, readSync(file, scratch, 0, mostBytes, place));
      const start = place === 0 ? 0 : bytes.indexOf(LINE_END) + 1;
      const end = bytes.indexOf(LINE_END, start);
      return end < 0 ? [] : [bytes.toString("utf8", start, end)];
    }).flat();
  } finally {
    closeSync(file);
  }
}

/** Parses lines of JSON; skips what is no record, such as zeros that a machine without power has left. */
export function parseLines<R>(bytes: Buffer): R[] {
  const text = bytes.toString("utf8");
  const records: R[] = [];
  for (let start = 0, end = text.indexOf("\n"); end >= 0; start = end + 1, end = text.indexOf("\n", start)) {
    const record = parseLine<R>(text.slice(start, end));
    if (record !== undefined) records.push(record);
  }
  return records;
}

/** Parses a line that is a JSON object; undefined if it is none. */
export function parseLine<R>(line: string): R | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as R) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Opens a log; undefined if it is no file of its own. A symbolic link is not followed, since it could lead
 * out of the folder, and a named pipe does not block.
 */
export function openLog(path: string): number | undefined {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
  if (fstatSync(file).isFile()) return file;
  closeSync(file);
  return undefined;
}

function linesFrom(
  file: number,
  start: number,
  size: number,
  mostBytes: number,
): { bytes: Buffer; skipped: number } {
  let skipped = 0;
  let length = Math.min(size - start, mostBytes);
  while (length > 0) {
    const bytes = read(file, start + skipped, length);
    const end = bytes.lastIndexOf(LINE_END) + 1;
    if (end > 0) return { bytes: bytes.subarray(0, end), skipped };
    if (length >= size - start - skipped) break; // the last line is not complete
    if (length >= MOST_LINE_BYTES) skipped += length;
    else length *= 2;
    length = Math.min(length, size - start - skipped);
  }
  return { bytes: Buffer.alloc(0), skipped };
}

function cursorAt(file: number, offset: number): Cursor {
  const length = Math.min(offset, HASHED_BYTES);
  const hash = createHash("sha256").update(read(file, offset - length, length));
  return `${offset.toString(36)}_${hash.digest("hex").slice(0, 16)}`;
}

function read(file: number, place: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  return bytes.subarray(0, readSync(file, bytes, 0, length, place));
}
