/** Writes files like those of torch.save, and malformed ones, byte by byte: pickle protocol 2 and zip. */
import { crc32 } from "node:zlib";

/** Pieces of a pickle. Each leaves one value on the stack. */
export const pickled = {
  text: (value: string): Buffer => counted("X", Buffer.from(value)),
  /** A number beyond 32 bits is written as LONG1. */
  int: (value: number): Buffer => {
    if (value === (value | 0)) return Buffer.concat([Buffer.from("J"), int32(value)]);
    const eight = Buffer.alloc(8);
    eight.writeBigInt64LE(BigInt(value));
    return Buffer.concat([Buffer.of(0x8a, 8), eight]);
  },
  tuple: (...items: Buffer[]): Buffer => surrounded("(", items, "t"),
  list: (...items: Buffer[]): Buffer => surrounded("](", items, "e"),
  dict: (entries: Record<string, Buffer>): Buffer => {
    const items = Object.entries(entries).flatMap(([key, value]) => [pickled.text(key), value]);
    return surrounded("}(", items, "u");
  },
  global: (module: string, name: string): Buffer => Buffer.from(`c${module}\n${name}\n`),
  call: (callee: Buffer, ...args: Buffer[]): Buffer => surrounded("", [callee, pickled.tuple(...args)], "R"),
  storage: (type: string, key: string, extent: number): Buffer => {
    const [module, name] = type.includes(".") ? splitLast(type) : ["torch", type];
    const parts = [pickled.text("storage"), pickled.global(module, name), pickled.text(key)];
    return surrounded("", [pickled.tuple(...parts, pickled.text("cpu"), pickled.int(extent))], "Q");
  },
  tensor: (storage: Buffer, { offset = 0, shape, strides, dtype }: TensorShape): Buffer => {
    const counts = (values: number[]): Buffer => pickled.tuple(...values.map(pickled.int));
    const hooks = pickled.call(pickled.global("collections", "OrderedDict"));
    const rest = dtype ? [pickled.global("torch", dtype)] : [];
    return pickled.call(
      pickled.global("torch._utils", dtype ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2"),
      ...[storage, pickled.int(offset), counts(shape), counts(strides ?? rowMajor(shape))],
      ...[Buffer.of(0x89), hooks, ...rest],
    );
  },
  /** Returns a whole pickle of one value. */
  whole: (value: Buffer): Buffer => Buffer.concat([Buffer.of(0x80, 2), value, Buffer.from(".")]),
};

interface TensorShape {
  offset?: number;
  shape: number[];
  strides?: number[];
  /** Name of the dtype, if the storage is untyped. */
  dtype?: string;
}

/** Fields of a zip entry that a test can falsify. */
export interface ZipFaults {
  method?: number;
  flags?: number;
  crc?: number;
  bytes?: number;
}

/** Returns a zip archive of stored entries, in order. faults: by name of the entry. */
export function zip(
  entries: readonly (readonly [name: string, data: Buffer])[],
  faults: Record<string, ZipFaults> = {},
): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [name, data] of entries) {
    const { method = 0, flags = 0, crc = crc32(data), bytes = data.length } = faults[name] ?? {};
    const text = Buffer.from(name);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(flags, 2);
    common.writeUInt16LE(method, 4);
    common.writeUInt32LE(crc, 10);
    common.writeUInt32LE(bytes, 14);
    common.writeUInt32LE(bytes, 18);
    common.writeUInt16LE(text.length, 22);
    const local = Buffer.concat([Buffer.from("PK\x03\x04"), common, text]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(at, 10);
    directory.push(Buffer.concat([Buffer.from("PK\x01\x02\0\0"), common, tail, text]));
    parts.push(local, data);
    at += local.length + data.length;
  }
  const list = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06", "latin1");
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(list.length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...parts, list, end]);
}

/** Returns the file that torch.save writes for a pickled value and its storages. */
export function torchZip(value: Buffer, storages: Record<string, Uint8Array> = {}): Buffer {
  return zip([
    ["archive/data.pkl", pickled.whole(value)],
    ["archive/byteorder", Buffer.from("little")],
    ...Object.entries(storages).map(([key, data]) => [`archive/data/${key}`, Buffer.from(data)] as const),
    ["archive/version", Buffer.from("3\n")],
  ]);
}

function rowMajor(shape: readonly number[]): number[] {
  return shape.map((_, dim) => shape.slice(dim + 1).reduce((product, extent) => product * extent, 1));
}

function counted(opcode: string, data: Buffer): Buffer {
  return Buffer.concat([Buffer.from(opcode), int32(data.length), data]);
}

function int32(value: number): Buffer {
  const four = Buffer.alloc(4);
  four.writeInt32LE(value);
  return four;
}

function surrounded(before: string, parts: readonly Buffer[], after: string): Buffer {
  return Buffer.concat([Buffer.from(before), ...parts, Buffer.from(after)]);
}

function splitLast(name: string): [string, string] {
  const at = name.lastIndexOf(".");
  return [name.slice(0, at), name.slice(at + 1)];
}
