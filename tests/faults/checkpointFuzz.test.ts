/**
 * Weight files with random damage: each is refused with a UserError, or read within its bounds. Nothing else
 * may happen.
 */
import { randomInt } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type Checkpoint, spanOf, type TensorEntry } from "../../src/checkpoint/checkpoint.ts";
import { openSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { headerLength, parseHeader } from "../../src/checkpoint/files/safetensorsHeader.ts";
import { openTorchBin, parseTorchBin } from "../../src/checkpoint/files/torchBin.ts";
import { randomAt } from "../../src/data/stream/random.ts";
import { UserError } from "../../src/errors.ts";
import { dtypeBytes } from "../../src/torch/dtypes.ts";
import { scope } from "../../src/torch/tensor.ts";
import { golden } from "../helpers/shared.ts";
import { zip } from "../helpers/torchFile.ts";

const SEEDS = [1, 2, 3, randomInt(2 ** 31)];
const MUTANTS = 700; // per kind and seed
const MOST_OPENED = 40; // accepted mutants that are really mapped and read

const root = mkdtempSync(join(tmpdir(), "fuzz-"));
afterAll(() => rmSync(root, { recursive: true }));

/** Random choices that a seed reproduces. */
interface Dice {
  below(end: number): number;
  pick<T>(items: readonly T[]): T;
}

function diceOf(seed: number): Dice {
  let rolls = 0;
  const below = (end: number): number => Math.floor(randomAt(seed, 0, rolls++) * end);
  return { below, pick: (items) => items[below(items.length)]! };
}

const NASTY_BYTES = [0, 1, 0x7f, 0x80, 0xff, ...Buffer.from('"{}[],:0-9e.\n(tRQqhcu')];

/** Returns a copy with one to four edits: bytes set, removed, doubled, inserted, or the end cut off. */
function damagedCopy(bytes: Buffer, dice: Dice): Buffer {
  let result = Buffer.from(bytes);
  for (let edits = 1 + dice.below(4); edits > 0; edits--) {
    const at = dice.below(result.length);
    const length = 1 + dice.below(dice.pick([1, 4, 16, 64]));
    const [head, part, tail] = [
      result.subarray(0, at),
      result.subarray(at, at + length),
      result.subarray(at),
    ];
    const edit = dice.below(8);
    if (edit < 4) result[at] = dice.pick([dice.pick(NASTY_BYTES), dice.below(256), result[at]! ^ 1]);
    else if (edit === 4) result = Buffer.concat([head, result.subarray(at + length)]);
    else if (edit === 5) result = Buffer.concat([head, part, tail]);
    else if (edit === 6) result = Buffer.concat([head, Buffer.alloc(length, dice.pick(NASTY_BYTES)), tail]);
    else if (dice.below(4) === 0) result = Buffer.from(head);
  }
  return result;
}

interface Kind {
  mutant(dice: Dice): Buffer;
  parse(file: Buffer): Iterable<TensorEntry>;
  open(path: string): Checkpoint;
}

const HEADER_FILE = Buffer.concat([
  withLength(
    Buffer.from(
      JSON.stringify({
        __metadata__: { format: "pt" },
        a: { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] },
        "b.weight": { dtype: "BF16", shape: [4], data_offsets: [24, 32] },
        scalar: { dtype: "I64", shape: [], data_offsets: [32, 40] },
        empty: { dtype: "U8", shape: [0, 5], data_offsets: [40, 40] },
        last: { dtype: "F8_E4M3", shape: [3, 1], data_offsets: [40, 43] },
      }),
    ),
  ),
  Buffer.alloc(43, 1),
]);

function withLength(header: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header]);
}

// biome-ignore format: a list
const NASTY_JSON = ["-1", "0", "1.5", "1e400", "9007199254740993", "18446744073709551616", "1e15", "[]", "{}", "null", '"__proto__"', '"F32"', '"F6"', "[0,4]", "[4294967296,4294967296]"];

/**
 * Returns a file with a header of the right length, in which some numbers, texts or brackets are replaced.
 */
function damagedJson(dice: Dice): Buffer {
  const headerEnd = 8 + Number(HEADER_FILE.readBigUInt64LE());
  let json = HEADER_FILE.toString("utf8", 8, headerEnd);
  for (let edits = 1 + dice.below(2); edits > 0; edits--) {
    const values = [...json.matchAll(/-?\d+(\.\d+)?|"[^"]*"|\[[^[\]]*\]/g)];
    if (values.length === 0) break;
    const { index, 0: value } = dice.pick(values);
    const other = dice.pick([...NASTY_JSON, dice.pick(values)[0], String(dice.below(50))]);
    json = json.slice(0, index) + other + json.slice(index + value.length);
  }
  return Buffer.concat([withLength(Buffer.from(json)), HEADER_FILE.subarray(headerEnd)]);
}

function parseSafetensors(file: Buffer): Iterable<TensorEntry> {
  const headerBytes = headerLength(file.subarray(0, 8), file.length, "f");
  return parseHeader(file.subarray(8, 8 + headerBytes), file.length, "f").entries.values();
}

/**
 * Parses from memory. Throws RangeError for a range outside the file: that is the parser's defect, and must
 * not look like the end of the file.
 */
function parseBin(file: Buffer): Iterable<TensorEntry> {
  const entries = parseTorchBin("f", file.length, (offset, length) => {
    const inside = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    if (!inside || offset + length > file.length) throw new RangeError(`read of ${length} at ${offset}`);
    return file.subarray(offset, offset + length);
  });
  return entries.values();
}

const ZIPS = ["dtypes.bin", "dtypes_ordereddict.bin"].map((name) =>
  readFileSync(golden(`bin_extra/${name}`)),
);
const LEGACY = readFileSync(golden("bin_extra/dtypes_legacy.bin"));

/** Returns the entries of an undamaged archive, found by their local headers. */
function entriesOf(archive: Buffer): [string, Buffer][] {
  const entries: [string, Buffer][] = [];
  const end = archive.lastIndexOf("PK\x05\x06", undefined, "latin1");
  let at = archive.readUInt32LE(end + 16);
  for (let count = archive.readUInt16LE(end + 10); count > 0; count--) {
    const [bytes, name, extra, comment] = [archive.readUInt32LE(at + 24), ...lengths(archive, at + 28, 3)];
    const local = archive.readUInt32LE(at + 42);
    const [localName, localExtra] = lengths(archive, local + 26, 2);
    const start = local + 30 + localName! + localExtra!;
    entries.push([
      archive.toString("utf8", at + 46, at + 46 + name!),
      archive.subarray(start, start + bytes!),
    ]);
    at += 46 + name! + extra! + comment!;
  }
  return entries;
}

function lengths(archive: Buffer, at: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => archive.readUInt16LE(at + 2 * index));
}

/** Returns an archive with a damaged pickle and correct checksums. */
function rezipped(archive: Buffer, damage: (pickle: Buffer) => Buffer): Buffer {
  return zip(
    entriesOf(archive).map(
      ([name, data]) => [name, name.endsWith("/data.pkl") ? damage(data) : data] as const,
    ),
  );
}

// biome-ignore format: a list
const OPCODES = ["N", "\x88", "K\x03", "M\x00\x01", "J\xff\xff\xff\xff", "\x8a\x02\xff\x7f", "G\x3f\xf0\0\0\0\0\0\0", "X\x01\0\0\0a", "\x8c\x017", "]", ")", "}", "(", "0", "1", "2", "a", "e", "s", "u", "t", "\x85", "\x86", "\x87", "q\x01", "h\x01", "\x94", "R", "\x81", "b", "Q", "\x93", "ccollections\nOrderedDict\n", "ctorch\nFloatStorage\n", "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch._utils\n_rebuild_tensor_v3\n", "ctorch._utils\n_rebuild_parameter\n", "ctorch\nSize\n", "ctorch\nfloat32\n", "cos\nsystem\n", "."];

/** Returns a pickle of random opcodes; a third of them end with an undamaged pickle. */
function opcodeSoup(dice: Dice, pickle: Buffer): Buffer {
  const soup = Array.from({ length: 1 + dice.below(40) }, () => Buffer.from(dice.pick(OPCODES), "latin1"));
  return Buffer.concat([Buffer.of(0x80, 2), ...soup, dice.below(3) === 0 ? pickle : Buffer.from(".")]);
}

const HEADERS: Record<string, Kind> = {
  "a safetensors file": {
    mutant: (dice) => damagedCopy(HEADER_FILE, dice),
    parse: parseSafetensors,
    open: openSafetensors,
  },
  "the JSON of a safetensors header": { mutant: damagedJson, parse: parseSafetensors, open: openSafetensors },
};
const bin = { parse: parseBin, open: openTorchBin };
const PICKLES: Record<string, Kind> = {
  "an archive": { mutant: (dice) => damagedCopy(dice.pick(ZIPS), dice), ...bin },
  "the pickle in an archive": {
    mutant: (dice) => rezipped(dice.pick(ZIPS), (pickle) => damagedCopy(pickle, dice)),
    ...bin,
  },
  "a pickle of random opcodes": {
    mutant: (dice) => rezipped(dice.pick(ZIPS), (pickle) => opcodeSoup(dice, pickle)),
    ...bin,
  },
  "a file of PyTorch before 1.6": { mutant: (dice) => damagedCopy(LEGACY, dice), ...bin },
};

/** Returns how many bytes of the file a tensor covers. */
function extentOf({ bytes, dtype, shape, strides }: TensorEntry): number {
  return strides ? spanOf(shape, strides) * dtypeBytes(dtype) : bytes;
}

function checkInside(entries: Iterable<TensorEntry>, fileBytes: number): void {
  for (const entry of entries) {
    const end = entry.offsetBytes + extentOf(entry);
    if (!(entry.offsetBytes >= 0 && end <= fileBytes)) throw new RangeError(`"${entry.name}" ends at ${end}`);
  }
}

/** Maps an accepted file and reads all of its tensors. */
function readWhole(file: Buffer, open: Kind["open"]): void {
  const path = join(root, "mutant");
  writeFileSync(path, file);
  const checkpoint = open(path);
  for (const name of checkpoint.names) {
    const { offsetBytes, bytes, strides } = checkpoint.entry(name);
    const read = scope(() => checkpoint.tensor(name).toBytes());
    expect(read.length).toBe(bytes);
    if (!strides) expect(file.subarray(offsetBytes, offsetBytes + bytes).equals(read)).toBe(true);
  }
  checkpoint.close();
}

/**
 * Returns how many mutants of a seed were accepted. Throws at the first that breaks the rule, and names it.
 */
function fuzz({ mutant, parse, open }: Kind, seed: number, count: number): number {
  const dice = diceOf(seed);
  let accepted = 0;
  for (let index = 0; index < count; index++) {
    const file = mutant(dice);
    try {
      checkInside(parse(file), file.length);
      if (accepted++ < MOST_OPENED) readWhole(file, open);
    } catch (thrown) {
      if (thrown instanceof UserError) continue;
      throw new Error(`seed ${seed}, mutant ${index}: ${thrown}\n${file.toString("base64")}`, {
        cause: thrown,
      });
    }
  }
  return accepted;
}

const kinds = [...Object.entries(HEADERS), ...Object.entries(PICKLES)];
const countOf = (name: string): number => (name in HEADERS ? 2 * MUTANTS : MUTANTS);

test.each(kinds)("%s, damaged: refused by a UserError, or read within its bounds", (name, kind) => {
  for (const seed of SEEDS) {
    const count = countOf(name);
    const accepted = fuzz(kind, seed, count);
    expect(accepted, `accepted of seed ${seed}`).toBeGreaterThan(0); // otherwise the damage never gets past the first check
    expect(accepted, `accepted of seed ${seed}`).toBeLessThan(count);
  }
});

test("that were at least 10,000 headers and as many pickles and archives", () => {
  const total = (of: Record<string, Kind>): number =>
    Object.keys(of).reduce((sum, name) => sum + SEEDS.length * countOf(name), 0);
  expect(total(HEADERS)).toBeGreaterThanOrEqual(10_000);
  expect(total(PICKLES)).toBeGreaterThanOrEqual(10_000);
});
