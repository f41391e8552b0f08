/**
 * The header of a safetensors file: eight bytes with its length, then JSON with the place of each tensor in
 * the data that follow. Everything is checked at once, so that no weight is read from a damaged file.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { z } from "zod";
import { formatBytes, UserError } from "../../errors.ts";
import { type DType, dtypeBytes } from "../../torch/dtypes.ts";
import type { TensorEntry } from "../checkpoint.ts";
import { dtypeOfSafetensors, numelOf, SPELLINGS } from "../dtypes.ts";
import { cannotRead, damaged, quoted, refusePointer } from "../faults.ts";
import { jsonExcess } from "./jsonLimits.ts";

const LENGTH_BYTES = 8;
/** The reference implementation reads 100 MB; the headers of the largest published models have a few. */
const MAX_HEADER_BYTES = 2 ** 25;
/**
 * Limits on its JSON. A tensor of four dims takes twelve items, so about 43,000 tensors. Depth: lists in
 * entries in the table.
 */
const LIMITS = { items: 2 ** 19, depth: 3 };
const MAX_DIMS = 64; // libtorch's limit

export interface Header {
  /** Entries by name, in the order of the data. */
  entries: Map<string, TensorEntry>;
  metadata: Record<string, string>;
}

/**
 * Reads and checks a file's header. Throws UserError unless the file is a whole and sound safetensors file.
 */
export function readHeader(path: string): Header {
  let file: number | undefined;
  try {
    file = openSync(path, "r");
    const fileBytes = fstatSync(file).size;
    const length = Buffer.alloc(LENGTH_BYTES);
    const lengthRead = readSync(file, length, 0, LENGTH_BYTES, 0);
    refusePointer(path, length);
    const headerBytes = headerLength(length.subarray(0, lengthRead), fileBytes, path);
    const header = Buffer.alloc(headerBytes);
    readSync(file, header, 0, headerBytes, LENGTH_BYTES);
    return parseHeader(header, fileBytes, path);
  } catch (cause) {
    throw cannotRead(path, cause);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** Returns the header's length from a file's first bytes. Throws UserError if the file has no room for it. */
export function headerLength(start: Uint8Array, fileBytes: number, path: string): number {
  if (start.length < LENGTH_BYTES) {
    throw damaged(path, `it has ${fileBytes} bytes, which is too short for a safetensors file`);
  }
  const headerBytes = Number(new DataView(start.buffer, start.byteOffset).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER_BYTES) {
    throw damaged(path, `it says that its header has ${headerBytes} bytes, more than any model needs`);
  }
  if (headerBytes > fileBytes - LENGTH_BYTES) {
    throw damaged(path, `its header should have ${headerBytes} bytes, but the whole file has ${fileBytes}`);
  }
  return headerBytes;
}

const Entry = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()).max(MAX_DIMS),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});

/**
 * Checks a header's entries against a file of fileBytes: types, shapes, and that their ranges cover the data
 * exactly once.
 */
export function parseHeader(header: Uint8Array, fileBytes: number, path: string): Header {
  const { __metadata__, ...tensors } = parseJsonObject(header, path);
  const metadata = __metadata__ ?? {};
  if (!isTableOfTexts(metadata)) throw damaged(path, "__metadata__ in its header is not a table of texts");
  const dataStart = LENGTH_BYTES + header.length;
  const entries = Object.entries(tensors)
    .map(([name, entry]) => checkedEntry(name, entry, dataStart, path))
    .sort((left, right) => left.offsetBytes - right.offsetBytes || left.bytes - right.bytes);
  checkCoverage(entries, dataStart, fileBytes, path);
  return { entries: new Map(entries.map((entry) => [entry.name, entry])), metadata };
}

/** A zod record would drop the key "__proto__". */
function isTableOfTexts(json: unknown): json is Record<string, string> {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return false;
  return Object.values(json).every((value) => typeof value === "string");
}

/**
 * Writes the header of tensors whose data follow each other in this order: its length, then JSON, padded so
 * that the data are aligned.
 */
export function encodeHeader(
  tensors: readonly { name: string; dtype: DType; shape: readonly number[] }[],
  metadata: Record<string, string>,
): Uint8Array {
  const names = new Set(tensors.map(({ name }) => name));
  if (names.size !== tensors.length || names.has("__metadata__")) {
    throw new Error("tensors of one file need different names, and none may be called __metadata__");
  }
  let end = 0;
  const entries = tensors.map(({ name, dtype, shape }) => {
    const start = end;
    end += numelOf(shape) * dtypeBytes(dtype);
    return [name, { dtype: SPELLINGS[dtype].safetensors, shape, data_offsets: [start, end] }] as const;
  });
  const json = Buffer.from(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
  const header = Buffer.alloc(LENGTH_BYTES * Math.ceil(json.length / LENGTH_BYTES), " ");
  header.set(json);
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header]);
}

function parseJsonObject(header: Uint8Array, path: string): Record<string, unknown> {
  const excess = jsonExcess(header, LIMITS);
  if (excess) throw damaged(path, `its header ${excess}, more than any model needs`);
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
    json = JSON.parse(text);
  } catch (cause) {
    throw damaged(path, "its header is not JSON", cause);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw damaged(path, "its header is not a JSON object");
  }
  const repeated = repeatedKey(text);
  if (repeated !== undefined) throw damaged(path, `its header names ${quoted(repeated)} twice`);
  return json as Record<string, unknown>;
}

/** Finds a key that an object of valid JSON has twice: JSON.parse keeps the last without a word. */
function repeatedKey(json: string): string | undefined {
  const open: Set<string>[] = [];
  for (let at = 0; at < json.length; at++) {
    const char = json[at];
    if (char === "{" || char === "[") open.push(new Set());
    if (char === "}" || char === "]") open.pop();
    if (char !== '"') continue;
    const end = stringEnd(json, at);
    if (isKey(json, end)) {
      const key = JSON.parse(json.slice(at, end)) as string;
      if (open.at(-1)?.has(key)) return key;
      open.at(-1)?.add(key);
    }
    at = end - 1;
  }
  return undefined;
}

function stringEnd(json: string, start: number): number {
  let at = start + 1;
  while (json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
  return at + 1;
}

function isKey(json: string, end: number): boolean {
  let at = end;
  while (" \t\n\r".includes(json[at] ?? "x")) at++;
  return json[at] === ":";
}

function checkedEntry(name: string, json: unknown, dataStart: number, path: string): TensorEntry {
  const parsed = Entry.safeParse(json);
  if (!parsed.success) {
    const { path: place, message } = parsed.error.issues[0]!;
    throw damaged(
      path,
      `tensor ${quoted(name)} in its header is malformed: ${place.join(".") || "entry"}: ${message}`,
    );
  }
  const { dtype: spelling, shape, data_offsets } = parsed.data;
  const dtype = dtypeOfSafetensors(spelling);
  if (!dtype) {
    const known = Object.values(SPELLINGS).map(({ safetensors }) => safetensors);
    throw new UserError(
      `${path}: tensor ${quoted(name)} has the type ${quoted(spelling)}, which is not known here.`,
      {
        fix: `Convert it to one of ${known.join(", ")}.`,
      },
    );
  }
  const [start, end] = data_offsets;
  const bytes = numelOf(shape) * dtypeBytes(dtype);
  if (Number.isNaN(bytes)) throw damaged(path, `tensor ${quoted(name)} has an impossible shape [${shape}]`);
  if (bytes !== end - start) {
    throw damaged(
      path,
      `tensor ${quoted(name)} of ${spelling} [${shape}] needs ${bytes} bytes, but its data_offsets [${start}, ${end}] hold ${end - start}`,
    );
  }
  return { name, dtype, shape, bytes, file: path, offsetBytes: dataStart + start };
}

/** Throws UserError if ranges overlap or leave holes, as in a file that was cut or glued. */
function checkCoverage(entries: TensorEntry[], dataStart: number, fileBytes: number, path: string): void {
  let end = dataStart;
  let before = "the header";
  for (const { name, offsetBytes, bytes } of entries) {
    if (offsetBytes !== end) {
      const relation = offsetBytes < end ? "overlap" : "have a hole between them";
      throw damaged(
        path,
        `${before} and tensor ${quoted(name)} ${relation} (byte ${offsetBytes}, expected ${end})`,
      );
    }
    end += bytes;
    before = `tensor ${quoted(name)}`;
  }
  if (end > fileBytes) {
    throw damaged(
      path,
      `it is cut off: its tensors end at byte ${end} (${formatBytes(end)}), the file at ${fileBytes}`,
    );
  }
  if (end < fileBytes) {
    throw damaged(path, `${fileBytes - end} bytes follow after its last tensor`);
  }
}
