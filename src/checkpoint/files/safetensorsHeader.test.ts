import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { encodeHeader, headerLength, parseHeader, readHeader } from "./safetensorsHeader.ts";

const root = mkdtempSync(join(tmpdir(), "header-"));
afterAll(() => rmSync(root, { recursive: true }));

const F32 = { dtype: "F32", shape: [2], data_offsets: [0, 8] };

/** The error of a file with this header (JSON, or text or bytes as they are) and so many bytes of data. */
function faultOf(header: unknown, dataBytes: number): UserError {
  const raw = typeof header === "string" || Buffer.isBuffer(header) ? header : JSON.stringify(header);
  const bytes = Buffer.from(raw as string);
  try {
    parseHeader(bytes, 8 + bytes.length + dataBytes, "f.safetensors");
  } catch (thrown) {
    if (thrown instanceof UserError) return thrown;
    throw thrown;
  }
  throw new Error("it was accepted");
}

// biome-ignore format: a table
const FAULTS: [claim: string, header: unknown, dataBytes: number, message: string][] = [
  ["no JSON",                  "{nope",                                            0,  "its header is not JSON"],
  ["no UTF-8",                 Buffer.of(0x7b, 0xff, 0x7d),                        0,  "its header is not JSON"],
  ["lists within lists",       { x: { ...F32, shape: [[2]] } },                    8,  "its header is nested 4 deep, more than any model needs"],
  ["a million values",         `{"x": {"shape": [${"1,".repeat(2 ** 19)}1]}}`,     8,  "its header has more than 524,288 values"],
  ["a list",                   [],                                                 0,  "its header is not a JSON object"],
  ["null",                     "null",                                             0,  "its header is not a JSON object"],
  ["metadata that are no text", { __metadata__: { a: 1 } },                        0,  "__metadata__ in its header is not a table of texts"],
  ["an entry that is none",    { x: 3 },                                           0,  'tensor "x" in its header is malformed: entry:'],
  ["an entry without a type",  { x: { shape: [], data_offsets: [0, 4] } },         4,  'tensor "x" in its header is malformed: dtype:'],
  ["a negative extent",        { x: { ...F32, shape: [-2] } },                     8,  'tensor "x" in its header is malformed: shape.0:'],
  ["a broken extent",          { x: { ...F32, shape: [1.5] } },                    8,  'tensor "x" in its header is malformed: shape.0:'],
  ["too many dims",            { x: { ...F32, shape: Array(65).fill(1) } },        8,  'tensor "x" in its header is malformed: shape:'],
  ["one offset",               { x: { ...F32, data_offsets: [0] } },               8,  'tensor "x" in its header is malformed: data_offsets'],
  ["an offset beyond integers", { x: { ...F32, data_offsets: [0, 2 ** 60] } },     8,  'tensor "x" in its header is malformed: data_offsets.1:'],
  ["an unknown type",          { x: { ...F32, dtype: "F4" } },                     8,  'tensor "x" has the type "F4", which is not known here'],
  ["a type called __proto__",  { x: { ...F32, dtype: "__proto__" } },              8,  'has the type "__proto__", which is not known here'],
  ["an overflowing shape",     { x: { ...F32, shape: [2 ** 40, 2 ** 40] } },       8,  'tensor "x" has an impossible shape'],
  ["offsets that do not fit",  { x: { ...F32, data_offsets: [0, 12] } },           12, 'tensor "x" of F32 [2] needs 8 bytes, but its data_offsets [0, 12] hold 12'],
  ["offsets the wrong way",    { x: { ...F32, data_offsets: [8, 0] } },            8,  'tensor "x" of F32 [2] needs 8 bytes'],
  ["an overlap",               { x: F32, y: { ...F32, data_offsets: [4, 12] } },   12, 'tensor "x" and tensor "y" overlap'],
  ["a hole",                   { x: F32, y: { ...F32, data_offsets: [12, 20] } },  20, 'tensor "x" and tensor "y" have a hole between them'],
  ["a hole at the start",      { x: { ...F32, data_offsets: [4, 12] } },           12, 'the header and tensor "x" have a hole between them'],
  ["too few data",             { x: F32 },                                         7,  "it is cut off"],
  ["too many data",            { x: F32 },                                         9,  "1 bytes follow after its last tensor"],
  ["a name twice",             `{"x": ${JSON.stringify(F32)}, "\\u0078": ${JSON.stringify(F32)}}`, 8, 'its header names "x" twice'],
];

it.each(FAULTS)("refuses %s with one clear error", (_, header, dataBytes, message) => {
  const fault = faultOf(header, dataBytes);
  expect(fault.message).toContain(message);
  expect(fault.message).toContain("f.safetensors");
  expect(fault.fix).toBeTruthy();
});

it("says control characters and long names of a file in a form that no terminal obeys", () => {
  const { message } = faultOf({ [`\u001b[2J${"x".repeat(5000)}`]: 3 }, 0);
  expect(message).not.toContain("\u001b");
  expect(message.length).toBeLessThan(400);
});

it("refuses a length that the file does not have, before it takes memory for it", () => {
  const start = (length: bigint): Buffer => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(length);
    return bytes;
  };
  expect(() => headerLength(start(100n), 20, "f")).toThrow(
    "should have 100 bytes, but the whole file has 20",
  );
  expect(() => headerLength(start(2n ** 64n - 1n), 1e12, "f")).toThrow("more than any model needs");
  expect(() => headerLength(Buffer.alloc(3), 3, "f")).toThrow("3 bytes, which is too short");
});

it("accepts empty tensors anywhere between others, and an empty file", () => {
  const header = { a: F32, b: { dtype: "F32", shape: [0, 7], data_offsets: [8, 8] } };
  const bytes = Buffer.from(JSON.stringify(header));
  expect([...parseHeader(bytes, 8 + bytes.length + 8, "f").entries.keys()]).toEqual(["a", "b"]);
  expect(parseHeader(Buffer.from("{}"), 10, "f").entries.size).toBe(0);
});

it("names what is no file of weights: a git-lfs pointer, a folder, nothing", () => {
  const pointer = join(root, "pointer.safetensors");
  writeFileSync(pointer, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  expect(() => readHeader(pointer)).toThrow("is a git-lfs pointer");
  expect(() => readHeader(root)).toThrow(`${root} cannot be read`);
  expect(() => readHeader(join(root, "none"))).toThrow(UserError);
});

it("writes headers whose data begin at a multiple of eight bytes", () => {
  for (let length = 1; length < 20; length++) {
    const header = encodeHeader([{ name: "x".repeat(length), dtype: "uint8", shape: [1] }], {});
    expect(header.length % 8).toBe(0);
    expect(headerLength(header, header.length + 1, "f")).toBe(header.length - 8);
  }
});

it("refuses what JSON.parse would take gigabytes or minutes for, before it is parsed", () => {
  const many = (count: number, item: (at: number) => string): string =>
    Array.from({ length: count }, (_, at) => item(at)).join();
  expect(faultOf(`{"a":${"[".repeat(2 ** 24)}`, 0).message).toContain("is nested 4 deep");
  const metadata = `{"__metadata__":{${many(520_000, (at) => `"k${at}":"v"`)}}}`;
  expect(faultOf(metadata, 0).message).toContain("has more than 524,288 values");
  const full = Buffer.from("0100000400000000", "hex"); // one byte more than 64 MiB
  expect(() => headerLength(full, 2 ** 40, "f.safetensors")).toThrow("more than any model needs");
  expect(faultOf(`{"${"\\".repeat(2 ** 24)}`, 0).message).toContain("is not JSON");
  expect(faultOf(`{"${'\\"'.repeat(2 ** 22)}":1}`, 0).message).toContain("is malformed");
});
