/**
 * Finds the entries of a zip archive in its file. It reads only what torch.save writes: entries without
 * compression, with zip64 if needed. Format: PKWARE's APPNOTE.TXT 6.3.
 */
import { UserError } from "../../errors.ts";
import { damaged, quoted } from "../faults.ts";

/** Reads a range of a file that has been checked to lie inside it. */
export type ReadRange = (offsetBytes: number, lengthBytes: number) => Buffer;

export interface ZipEntry {
  offsetBytes: number;
  bytes: number;
  crc32: number;
}

const LOCAL_SIGNATURE = 0x04034b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const END_SIGNATURE = 0x06054b50;
const END64_SIGNATURE = 0x06064b50;
const LOCATOR64_SIGNATURE = 0x07064b50;
const LOCAL_BYTES = 30;
const CENTRAL_BYTES = 46;
const END_BYTES = 22;
const END64_BYTES = 56;
const LOCATOR64_BYTES = 20;
const MOST_COMMENT_BYTES = 0xffff;
/** Bytes of the list of entries, about 100 for each; torch.save makes one for each tensor. */
const MOST_DIRECTORY_BYTES = 2 ** 24;
const IN_ZIP64 = 0xffffffff; // the true number is in a zip64 record
const ENCRYPTED_FLAG = 1;

/** Tells whether a file begins as a zip archive does. */
export function startsAsZip(start: Uint8Array): boolean {
  return start.length >= 4 && Buffer.from(start.buffer, start.byteOffset).readUInt32LE() === LOCAL_SIGNATURE;
}

/**
 * Reads the entries by name. Throws UserError if the archive is damaged, or if entries are compressed or
 * overlap.
 */
export function readZip(path: string, fileBytes: number, read: ReadRange): Map<string, ZipEntry> {
  const { offsetBytes, bytes, count } = findDirectory(path, fileBytes, read);
  if (bytes > MOST_DIRECTORY_BYTES) throw damaged(path, `its list of entries has ${bytes} bytes`);
  const directory = read(offsetBytes, bytes);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let index = 0; index < count; index++) {
    const header = parseCentral(path, directory, at);
    if (entries.has(header.name)) throw damaged(path, `two entries are called ${quoted(header.name)}`);
    entries.set(header.name, locate(path, header, offsetBytes, read));
    at = header.end;
  }
  checkDisjoint(path, entries);
  return entries;
}

interface Directory {
  offsetBytes: number;
  bytes: number;
  count: number;
}

function findDirectory(path: string, fileBytes: number, read: ReadRange): Directory {
  const tailBytes = Math.min(fileBytes, END_BYTES + MOST_COMMENT_BYTES);
  const tail = read(fileBytes - tailBytes, tailBytes);
  let at = tail.length - END_BYTES;
  while (at >= 0 && tail.readUInt32LE(at) !== END_SIGNATURE) at--;
  if (at < 0) throw damaged(path, "the list of entries at its end is missing, so it is cut off");
  const endOffsetBytes = fileBytes - tailBytes + at;
  const short = {
    count: tail.readUInt16LE(at + 10),
    bytes: tail.readUInt32LE(at + 12),
    offsetBytes: tail.readUInt32LE(at + 16),
  };
  const directory = findDirectory64(path, endOffsetBytes, read) ?? short;
  if (directory.offsetBytes > endOffsetBytes || directory.bytes > endOffsetBytes - directory.offsetBytes) {
    throw damaged(path, "its list of entries lies outside of the file");
  }
  return directory;
}

/** Reads the zip64 form of the list's place; its locator stands before the end record. */
function findDirectory64(path: string, endOffsetBytes: number, read: ReadRange): Directory | undefined {
  const locatorOffsetBytes = endOffsetBytes - LOCATOR64_BYTES;
  if (locatorOffsetBytes < 0) return undefined;
  const locator = read(locatorOffsetBytes, LOCATOR64_BYTES);
  if (locator.readUInt32LE() !== LOCATOR64_SIGNATURE) return undefined;
  const offsetBytes = toNumber(path, locator.readBigUInt64LE(8));
  if (offsetBytes > locatorOffsetBytes - END64_BYTES)
    throw damaged(path, "its zip64 record lies outside of the file");
  const end = read(offsetBytes, END64_BYTES);
  if (end.readUInt32LE() !== END64_SIGNATURE) throw damaged(path, "its zip64 record is missing");
  return {
    count: toNumber(path, end.readBigUInt64LE(32)),
    bytes: toNumber(path, end.readBigUInt64LE(40)),
    offsetBytes: toNumber(path, end.readBigUInt64LE(48)),
  };
}

interface CentralHeader {
  name: string;
  bytes: number;
  crc32: number;
  localOffsetBytes: number;
  /** Offset of the next header in the directory. */
  end: number;
}

function parseCentral(path: string, directory: Buffer, at: number): CentralHeader {
  if (at + CENTRAL_BYTES > directory.length || directory.readUInt32LE(at) !== CENTRAL_SIGNATURE) {
    throw damaged(path, "its list of entries ends too early");
  }
  const nameEnd = at + CENTRAL_BYTES + directory.readUInt16LE(at + 28);
  const extraEnd = nameEnd + directory.readUInt16LE(at + 30);
  const end = extraEnd + directory.readUInt16LE(at + 32);
  if (end > directory.length) throw damaged(path, "its list of entries ends too early");
  const name = directory.toString("utf8", at + CENTRAL_BYTES, nameEnd);
  const extra = zip64Extra(directory.subarray(nameEnd, extraEnd));
  const sized = (offset: number): number => {
    const value = directory.readUInt32LE(at + offset);
    return value === IN_ZIP64 ? toNumber(path, extra.shift()) : value;
  };
  const bytes = sized(24); // in the order in which the zip64 record has them
  const storedBytes = sized(20);
  const localOffsetBytes = sized(42);
  const encrypted = (directory.readUInt16LE(at + 8) & ENCRYPTED_FLAG) !== 0;
  const compressed = directory.readUInt16LE(at + 10) !== 0 || bytes !== storedBytes;
  if (encrypted || compressed) {
    throw new UserError(
      `${path}: its entry ${quoted(name)} is ${encrypted ? "encrypted" : "compressed"}, which torch.save never does.`,
      {
        fix: "Load it with PyTorch and save it again with torch.save.",
      },
    );
  }
  return { name, bytes, crc32: directory.readUInt32LE(at + 16), localOffsetBytes, end };
}

/** Returns the 64-bit numbers in the zip64 field of an entry's extra data. */
function zip64Extra(extra: Buffer): bigint[] {
  for (let at = 0; at + 4 <= extra.length; ) {
    const end = at + 4 + extra.readUInt16LE(at + 2);
    if (extra.readUInt16LE(at) === 1 && end <= extra.length) {
      const field = extra.subarray(at + 4, end);
      return Array.from({ length: Math.floor(field.length / 8) }, (_, index) =>
        field.readBigUInt64LE(8 * index),
      );
    }
    at = end;
  }
  return [];
}

/**
 * Finds an entry's data: behind its local header, whose extra data (padding of torch.save) have their own
 * length.
 */
function locate(
  path: string,
  header: CentralHeader,
  directoryOffsetBytes: number,
  read: ReadRange,
): ZipEntry {
  const { name, bytes, crc32, localOffsetBytes } = header;
  if (localOffsetBytes > directoryOffsetBytes - LOCAL_BYTES)
    throw damaged(path, `its entry ${quoted(name)} lies outside of the file`);
  const local = read(localOffsetBytes, LOCAL_BYTES);
  if (local.readUInt32LE() !== LOCAL_SIGNATURE)
    throw damaged(path, `its entry ${quoted(name)} has no header where it should begin`);
  const offsetBytes = localOffsetBytes + LOCAL_BYTES + local.readUInt16LE(26) + local.readUInt16LE(28);
  if (bytes > directoryOffsetBytes - offsetBytes)
    throw damaged(path, `its entry ${quoted(name)} lies outside of the file`);
  return { offsetBytes, bytes, crc32 };
}

function checkDisjoint(path: string, entries: Map<string, ZipEntry>): void {
  let end = 0;
  for (const [name, { offsetBytes, bytes }] of [...entries].sort(
    (a, b) => a[1].offsetBytes - b[1].offsetBytes,
  )) {
    if (offsetBytes < end) throw damaged(path, `its entry ${quoted(name)} overlaps another`);
    end = offsetBytes + bytes;
  }
}

function toNumber(path: string, value: bigint | undefined): number {
  if (value === undefined || value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw damaged(path, "an offset or a length in it is impossible");
  }
  return Number(value);
}
