/**
 * Reads weights that torch.save wrote (.bin, .pt): a pickle that describes tensors, and their storages. Both
 * are in a zip archive or, before PyTorch 1.6, one after the other. Storages are mapped, never copied, and
 * nothing of the pickle is run.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { crc32 } from "node:zlib";
import { UserError } from "../../errors.ts";
import { dtypeBytes } from "../../torch/dtypes.ts";
import { type Checkpoint, mappedCheckpoint, type TensorEntry } from "../checkpoint.ts";
import { numelOf } from "../dtypes.ts";
import { cannotRead, damaged, quoted, refusePointer } from "../faults.ts";
import { unpickle } from "./pickle.ts";
import { isView, type Storage, torchHost, type View } from "./torchPickle.ts";
import { type ReadRange, readZip, startsAsZip, type ZipEntry } from "./zip.ts";

const MOST_PICKLE_BYTES = 2 ** 26;
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_PROTOCOL = 1001;

/**
 * Opens the tensors of one file. Throws UserError if it is damaged, or holds more than tensors, dicts, lists,
 * numbers and text.
 */
export function openTorchBin(path: string): Checkpoint {
  return mappedCheckpoint(path, readTorchBin(path));
}

/** Reads and checks the entries of a file. */
export function readTorchBin(path: string): Map<string, TensorEntry> {
  let file: number | undefined;
  try {
    file = openSync(path, "r");
    const descriptor = file;
    return parseTorchBin(path, fstatSync(file).size, (offsetBytes, lengthBytes) => {
      const range = Buffer.alloc(lengthBytes);
      const bytesRead = readSync(descriptor, range, 0, lengthBytes, offsetBytes);
      if (bytesRead < lengthBytes) throw damaged(path, "it ends while it is being read");
      return range;
    });
  } catch (cause) {
    throw cannotRead(path, cause);
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** Checks the entries of a file whose bytes come from `read`. */
export function parseTorchBin(path: string, fileBytes: number, read: ReadRange): Map<string, TensorEntry> {
  const start = read(0, Math.min(fileBytes, 8));
  refusePointer(path, start);
  const { state, offsets } = startsAsZip(start)
    ? fromZip(path, fileBytes, read)
    : fromLegacy(path, fileBytes, read);
  const entries = [...namedViews(path, state)].map(([name, view]) => entryOf(path, name, view, offsets));
  return new Map(entries.map((entry) => [entry.name, entry]));
}

interface Contents {
  /** Value that was saved. */
  state: unknown;
  /** Offset of each storage in the file, by key. */
  offsets: Map<string, number>;
}

function fromZip(path: string, fileBytes: number, read: ReadRange): Contents {
  const entries = readZip(path, fileBytes, read);
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  const pickleName = pickles[0];
  if (pickleName === undefined || pickles.length > 1) {
    throw damaged(path, `it has ${pickles.length} entries called data.pkl, so torch.save did not write it`);
  }
  const folder = pickleName.slice(0, -"data.pkl".length);
  const order = entries.get(`${folder}byteorder`);
  if (order && readEntry(path, order, read).toString() !== "little") {
    throw new UserError(`${path}: its numbers are big-endian.`, {
      fix: "Save it again on a little-endian machine.",
    });
  }
  const storages = new Map<string, Storage>();
  const { value } = unpickle(
    readEntry(path, entries.get(pickleName)!, read),
    path,
    torchHost(path, storages),
  );
  const offsets = new Map<string, number>();
  for (const { key, bytes } of storages.values()) {
    const entry = entries.get(`${folder}data/${key}`);
    if (entry?.bytes !== bytes) {
      throw damaged(
        path,
        `storage ${quoted(key)} ${entry ? `has ${entry.bytes} bytes instead of ${bytes}` : "is missing"}`,
      );
    }
    offsets.set(key, entry.offsetBytes);
  }
  return { state: value, offsets };
}

function readEntry(path: string, { offsetBytes, bytes, crc32: expected }: ZipEntry, read: ReadRange): Buffer {
  if (bytes > MOST_PICKLE_BYTES)
    throw damaged(path, `its pickle has ${bytes} bytes, more than any checkpoint needs`);
  const data = read(offsetBytes, bytes);
  if (crc32(data) !== expected)
    throw damaged(path, "its pickle does not have the checksum that the archive states");
  return data;
}

/**
 * Reads PyTorch's format before 1.6: four pickles (a magic number, a version, facts of the machine, the saved
 * value), then the keys of the storages, then the storages.
 */
function fromLegacy(path: string, fileBytes: number, read: ReadRange): Contents {
  const bytes = read(0, Math.min(fileBytes, MOST_PICKLE_BYTES));
  const storages = new Map<string, Storage>();
  const host = torchHost(path, storages);
  let at = 0;
  const next = (): unknown => {
    const { value, end } = unpickle(bytes, path, host, at);
    at = end;
    return value;
  };
  if (bytes[0] !== 0x80 || next() !== LEGACY_MAGIC || next() !== LEGACY_PROTOCOL) {
    throw damaged(path, "it is no file of torch.save");
  }
  const machine = next();
  if (machine instanceof Map && machine.get("little_endian") === false) {
    throw new UserError(`${path}: its numbers are big-endian.`, {
      fix: "Save it again on a little-endian machine.",
    });
  }
  const state = next();
  const keys = next();
  if (!Array.isArray(keys) || new Set(keys).size !== storages.size) {
    throw damaged(path, "its list of storages is not that of its tensors");
  }
  return { state, offsets: legacyOffsets(path, { keys, storages, start: at, fileBytes, read }) };
}

/** Finds each storage: it follows the number of its elements, in eight bytes. */
function legacyOffsets(
  path: string,
  parts: {
    keys: unknown[];
    storages: Map<string, Storage>;
    start: number;
    fileBytes: number;
    read: ReadRange;
  },
): Map<string, number> {
  const { keys, storages, start, fileBytes, read } = parts;
  const offsets = new Map<string, number>();
  let at = start;
  for (const key of keys) {
    const storage = storages.get(key as string);
    if (!storage?.dtype || offsets.has(storage.key)) {
      throw damaged(path, "its list of storages is not that of its tensors");
    }
    if (storage.bytes + 8 > fileBytes - at)
      throw damaged(path, `it is cut off inside of storage ${quoted(storage.key)}`);
    const numel = Number(read(at, 8).readBigInt64LE());
    if (numel * dtypeBytes(storage.dtype) !== storage.bytes) {
      throw damaged(path, `storage ${quoted(storage.key)} has ${numel} elements, its tensors say otherwise`);
    }
    offsets.set(storage.key, at + 8);
    at += 8 + storage.bytes;
  }
  return offsets;
}

const WRAPPERS = ["state_dict", "model", "module"];

/** Finds the tensors of a saved value: a dict of them by name, alone or inside a training checkpoint. */
function namedViews(path: string, state: unknown): Map<string, View> {
  const wrapped =
    state instanceof Map
      ? WRAPPERS.map((key) => state.get(key)).find((inner) => inner instanceof Map)
      : undefined;
  const named = viewsIn(state);
  const found = named.size > 0 ? named : viewsIn(wrapped);
  if (found.size > 0) return found;
  throw new UserError(`${path}: it holds no tensors by name.`, {
    fix: "Save the model's state_dict(): a dict of tensors by their names.",
  });
}

function viewsIn(dict: unknown): Map<string, View> {
  const items = dict instanceof Map ? [...dict] : [];
  return new Map(
    items.filter((item): item is [string, View] => typeof item[0] === "string" && isView(item[1])),
  );
}

function entryOf(path: string, name: string, view: View, offsets: Map<string, number>): TensorEntry {
  const { storage, dtype, offsetElements, shape, strides } = view;
  return {
    name,
    dtype,
    shape,
    ...(strides ? { strides } : {}),
    bytes: numelOf(shape) * dtypeBytes(dtype),
    file: path,
    offsetBytes: offsets.get(storage.key)! + offsetElements * dtypeBytes(dtype),
  };
}
