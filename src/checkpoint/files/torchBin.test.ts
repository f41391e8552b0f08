import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { golden } from "../../../tests/helpers/shared.ts";
import { pickled, torchZip, type ZipFaults, zip } from "../../../tests/helpers/torchFile.ts";
import { UserError } from "../../errors.ts";
import { liveTensors } from "../../torch/device.ts";
import { scope } from "../../torch/tensor.ts";
import { openTorchBin } from "./torchBin.ts";

const root = mkdtempSync(join(tmpdir(), "torch-bin-"));
const path = join(root, "w.bin");
afterAll(() => rmSync(root, { recursive: true }));

interface Expected {
  dtype: string;
  shape: number[];
  values: number[];
}

const expected = JSON.parse(readFileSync(golden("bin_extra/dtypes.json"), "utf8")) as Record<
  string,
  Expected
>;

describe("files of PyTorch", () => {
  it.each(["dtypes.bin", "dtypes_ordereddict.bin", "dtypes_legacy.bin"])(
    "%s: every type, transposed and shared views, a Parameter, a scalar, an empty tensor",
    (name) => {
      const file = openTorchBin(golden(`bin_extra/${name}`));
      expect([...file.names].sort()).toEqual(Object.keys(expected).sort());
      scope(() => {
        for (const [name, { dtype, shape, values }] of Object.entries(expected)) {
          const tensor = file.tensor(name);
          expect([name, `torch.${tensor.dtype}`, tensor.shape]).toEqual([name, dtype, shape]);
          expect(Array.from(tensor.toFloat32Array())).toEqual(values.map(Math.fround));
        }
        expect(file.entry("f32_transposed_view").strides).toEqual([1, 4]);
      });
      file.close();
    },
  );

  it("are refused when they are cut off, wherever", () => {
    for (const name of ["dtypes.bin", "dtypes_legacy.bin"]) {
      const bytes = readFileSync(golden(`bin_extra/${name}`));
      for (let length = 0; length < bytes.length; length += 31) {
        writeFileSync(path, bytes.subarray(0, length));
        expect(() => openTorchBin(path), `${name} at ${length} bytes`).toThrow(UserError);
      }
    }
  });
});

const floats = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const storage = pickled.storage("FloatStorage", "0", 6);
const six = floats(1, 2, 3, 4, 5, 6);
const vector = pickled.tensor(storage, { shape: [6] });

function open(file: Buffer): ReturnType<typeof openTorchBin> {
  writeFileSync(path, file);
  return openTorchBin(path);
}

/** Tensors of a file that is made here, as lists of numbers. */
function read(value: Buffer, storages: Record<string, Uint8Array> = { "0": six }): Record<string, number[]> {
  const file = open(torchZip(value, storages));
  const numbers = file.names.map((name) => scope(() => [name, [...file.tensor(name).toFloat32Array()]]));
  file.close();
  return Object.fromEntries(numbers);
}

describe("tensors of a file", () => {
  it("are views of storages, shared, strided, from an offset", () => {
    const before = liveTensors();
    const value = pickled.dict({
      all: vector,
      tail: pickled.tensor(storage, { offset: 4, shape: [2] }),
      turned: pickled.tensor(storage, { shape: [3, 2], strides: [1, 3] }),
      column: pickled.tensor(storage, { offset: 1, shape: [2], strides: [3] }),
    });
    expect(read(value)).toEqual({
      all: [1, 2, 3, 4, 5, 6],
      tail: [5, 6],
      turned: [1, 4, 2, 5, 3, 6],
      column: [2, 5],
    });
    expect(liveTensors()).toBe(before);
  });

  it("of untyped storages say their own type, as those of newer types do", () => {
    for (const type of ["torch.UntypedStorage", "torch.storage.UntypedStorage"]) {
      const untyped = pickled.storage(type, "0", 24);
      const file = open(
        torchZip(
          pickled.dict({
            a: pickled.tensor(untyped, { shape: [12], dtype: "uint16" }),
            b: pickled.tensor(untyped, { shape: [24], dtype: "float8_e4m3fn" }),
          }),
          { "0": six },
        ),
      );
      expect([file.entry("a").dtype, file.entry("b").dtype]).toEqual(["uint16", "float8_e4m3fn"]);
      scope(() => expect(Buffer.from(file.tensor("b").toBytes()).equals(six)).toBe(true));
      file.close();
    }
  });

  it("are found inside of a training checkpoint, and what is beside them is left out", () => {
    const training = pickled.dict({ epoch: pickled.int(3), state_dict: pickled.dict({ w: vector }) });
    expect(read(training)).toEqual({ w: [1, 2, 3, 4, 5, 6] });
    expect(read(pickled.dict({ w: vector, note: pickled.text("best") }))).toEqual({ w: [1, 2, 3, 4, 5, 6] });
  });
});

const tensorOf = (shape: Parameters<typeof pickled.tensor>[1]): Buffer =>
  pickled.dict({ w: pickled.tensor(storage, shape) });

// biome-ignore format: a table
const FAULTS: [claim: string, value: Buffer, message: string][] = [
  ["a shape beyond the storage",   tensorOf({ shape: [7] }),                                 "a tensor [7] that does not fit into its storage of 24 bytes"],
  ["an offset beyond the storage", tensorOf({ offset: 5, shape: [2] }),                      "does not fit into its storage"],
  ["strides beyond the storage",   tensorOf({ shape: [2, 2], strides: [5, 1] }),             "does not fit into its storage"],
  ["strides that repeat elements", tensorOf({ shape: [1e6], strides: [0] }),                 "that repeats its elements"],
  ["a negative extent",            tensorOf({ shape: [-1] }),                                "a tensor with a malformed description"],
  ["a negative stride",            tensorOf({ shape: [2], strides: [-1] }),                  "a tensor with a malformed description"],
  ["a negative offset",            tensorOf({ offset: -1, shape: [2] }),                     "a tensor with a malformed description"],
  ["an overflowing shape",         tensorOf({ shape: [2 ** 40, 2 ** 40] }),                  "does not fit into its storage"],
  ["an overflowing stride",        tensorOf({ shape: [3], strides: [2 ** 52] }),             "does not fit into its storage"],
  ["too few strides",              tensorOf({ shape: [2, 3], strides: [1] }),                "does not fit into its storage"],
  ["too many dims",                tensorOf({ shape: Array(65).fill(1) }),                   "does not fit into its storage"],
  ["a storage that is missing",    pickled.dict({ w: pickled.tensor(pickled.storage("FloatStorage", "9", 6), { shape: [6] }) }), 'storage "9" is missing'],
  ["a storage of another size",    pickled.dict({ w: pickled.tensor(pickled.storage("FloatStorage", "0", 5), { shape: [5] }) }), 'storage "0" has 24 bytes instead of 20'],
  ["a storage of two types",       pickled.dict({ w: vector, v: pickled.tensor(pickled.storage("IntStorage", "0", 6), { shape: [6] }) }), 'two descriptions of storage "0"'],
  ["a storage of unknown type",    pickled.dict({ w: pickled.tensor(pickled.storage("ComplexFloatStorage", "0", 3), { shape: [3] }) }), 'asks for "torch.ComplexFloatStorage", which is refused'],
  ["an unknown type of elements",  pickled.dict({ w: pickled.tensor(pickled.storage("torch.UntypedStorage", "0", 24), { shape: [3], dtype: "complex64" }) }), 'asks for "torch.complex64", which is refused'],
  ["no tensors",                   pickled.dict({ epoch: pickled.int(3) }),                  "it holds no tensors by name"],
  ["a tensor without a name",      vector,                                                   "it holds no tensors by name"],
  ["code",                         pickled.call(pickled.global("os", "system"), pickled.text("echo")), 'asks for "os.system", which is refused'],
];

it.each(FAULTS)("refuses %s", (_, value, message) => {
  const file = torchZip(value, { "0": six });
  expect(() => open(file)).toThrow(UserError);
  expect(() => open(file)).toThrow(message);
});

describe("an archive", () => {
  const pickle = ["a/data.pkl", pickled.whole(pickled.dict({ w: vector }))] as const;
  const data = ["a/data/0", Buffer.from(six)] as const;
  const order = (text: string): readonly [string, Buffer] => ["a/byteorder", Buffer.from(text)];

  // biome-ignore format: a table
  const ARCHIVES: [claim: string, file: Buffer, message: string][] = [
    ["without a pickle",       zip([data]),                                     "has 0 entries called data.pkl"],
    ["with two pickles",       zip([pickle, ["b/data.pkl", pickle[1]], data]),  "has 2 entries called data.pkl"],
    ["with an entry twice",    zip([pickle, data, data]),                       'two entries are called "a/data/0"'],
    ["of big-endian numbers",  zip([pickle, data, order("big")]),               "its numbers are big-endian"],
    ["without an end",         zip([pickle, data]).subarray(0, -22),            "the list of entries at its end is missing"],
    ["with less than it says", Buffer.concat([zip([pickle, data]).subarray(0, 40), zip([pickle, data]).subarray(60)]), "lies outside of the file"],
    ["of text",                Buffer.from("hello, I am no checkpoint"),        "it is no file of torch.save"],
    ["of nothing",             Buffer.of(),                                     "it is no file of torch.save"],
    ["of a git-lfs pointer",   Buffer.from("version https://git-lfs.github.com/spec/v1"), "is a git-lfs pointer"],
  ];
  it.each(ARCHIVES)("%s is refused", (_, file, message) => {
    expect(() => open(file)).toThrow(UserError);
    expect(() => open(file)).toThrow(message);
  });

  const ENTRIES: [claim: string, faults: ZipFaults, message: string][] = [
    ["compressed", { method: 8 }, 'its entry "a/data.pkl" is compressed'],
    ["encrypted", { flags: 1 }, 'its entry "a/data.pkl" is encrypted'],
    ["of another checksum", { crc: 1 }, "does not have the checksum"],
    ["longer than the file", { bytes: 1e6 }, 'its entry "a/data.pkl" lies outside of the file'],
    ["that overlaps the next", { bytes: pickle[1].length + 60 }, 'its entry "a/data/0" overlaps another'],
  ];
  it.each(ENTRIES)("with a pickle %s is refused", (_, faults, message) => {
    const file = zip([pickle, data], { "a/data.pkl": faults });
    expect(() => open(file)).toThrow(UserError);
    expect(() => open(file)).toThrow(message);
  });

  it("with a comment behind it is read", () => {
    const file = zip([pickle, data, order("little")]);
    file.writeUInt16LE(5, file.length - 2);
    expect(open(Buffer.concat([file, Buffer.from("hello")])).names).toEqual(["w"]);
  });
});
