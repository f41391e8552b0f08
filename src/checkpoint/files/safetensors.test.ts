import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { floats, readFixture } from "../../../tests/helpers/fixtures.ts";
import { golden } from "../../../tests/helpers/shared.ts";
import { UserError } from "../../errors.ts";
import { fromArray, fromBytes, zeros } from "../../torch/create.ts";
import { liveTensors, memoryStats } from "../../torch/device.ts";
import { DTYPES, type DType, dtypeBytes } from "../../torch/dtypes.ts";
import { scope } from "../../torch/tensor.ts";
import { numelOf, SPELLINGS } from "../dtypes.ts";
import { openModelFolder } from "../folder.ts";
import { openSafetensors, type TensorSource, writeSafetensors, writeShards } from "./safetensors.ts";
import { readHeader } from "./safetensorsHeader.ts";

const root = mkdtempSync(join(tmpdir(), "safetensors-"));
const path = join(root, "one.safetensors");
afterAll(() => rmSync(root, { recursive: true }));

interface Given {
  name: string;
  dtype: DType;
  shape: number[];
  bytes: Uint8Array;
}

const dtypes = Object.keys(DTYPES) as DType[];
const tensor: fc.Arbitrary<Given> = fc
  .record({
    name: fc.string({ unit: "binary", maxLength: 12 }).filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom(...dtypes),
    shape: fc.array(fc.nat(4), { maxLength: 3 }),
  })
  .chain((entry) => {
    const length = numelOf(entry.shape) * dtypeBytes(entry.dtype);
    return fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((bytes) => ({ ...entry, bytes: entry.dtype === "bool" ? bytes.map((byte) => byte & 1) : bytes }));
  });
const tensors = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 6 });

/** Names that an object of JavaScript does not take as it takes others. */
const PROTO_TEXTS = JSON.parse('{"__proto__":"text"}') as Record<string, string>;
const BYTE = { dtype: "uint8", shape: [1], bytes: Buffer.of(7) } as const satisfies Omit<Given, "name">;

function sourceOf({ name, dtype, shape, bytes }: Given): TensorSource {
  return { name, dtype, shape, read: () => fromBytes(bytes, shape, dtype) };
}

describe("a file", () => {
  it("gives back names, types, shapes, bytes and metadata, whatever they are", () => {
    const metadata = fc.dictionary(fc.string({ minLength: 1 }), fc.string(), { noNullPrototype: true });
    fc.assert(
      fc.property(tensors, metadata, (given, metadata) => {
        scope(() => {
          writeSafetensors(
            path,
            given.map(({ name, dtype, shape, bytes }) => [name, fromBytes(bytes, shape, dtype)] as const),
            metadata,
          );
          const file = openSafetensors(path);
          expect([...file.names].sort()).toEqual(given.map(({ name }) => name).sort());
          for (const { name, dtype, shape, bytes } of given) {
            const read = file.tensor(name);
            expect([read.dtype, read.shape]).toEqual([dtype, shape]);
            expect(Buffer.from(read.toBytes()).equals(bytes)).toBe(true);
            expect(file.entry(name).offsetBytes % dtypeBytes(dtype)).toBe(0);
          }
          file.close();
        });
        expect(readHeader(path).metadata).toEqual(metadata);
      }),
      {
        numRuns: 60,
        examples: [
          [[], PROTO_TEXTS],
          [[{ ...BYTE, name: "__proto__" }], {}],
        ],
      },
    );
  });

  it("reads each type of the format", () => {
    const spellings = dtypes.map((dtype) => SPELLINGS[dtype].safetensors);
    scope(() => {
      writeSafetensors(
        path,
        dtypes.map((dtype) => [dtype, zeros([2], { dtype })] as const),
      );
      const file = openSafetensors(path);
      for (const dtype of dtypes) expect(file.tensor(dtype).dtype).toBe(dtype);
      file.close();
    });
    const header = readFileSync(path).toString("latin1");
    for (const spelling of spellings) expect(header).toContain(`"dtype":"${spelling}"`);
  });

  it("is read as the reference wrote it", () => {
    const fixture = readFixture(golden("tiny_cases/c1_text.safetensors"));
    const file = openSafetensors(golden("tiny_cases/c1_text.safetensors"));
    expect([...file.names].sort()).toEqual(Object.keys(fixture).sort());
    scope(() => {
      expect([...file.tensor("final_norm").toFloat32Array()]).toEqual([...floats(fixture, "final_norm")]);
      expect(file.tensor("input_ids").dtype).toBe("int64");
    });
    file.close();
  });

  it("is mapped: opening and reading count no bytes, and closing leaves tensors alive", () => {
    scope(() => writeSafetensors(path, [["x", fromArray([1, 2, 3], [3])]]));
    const before = memoryStats("cpu");
    const tensorsBefore = liveTensors();
    scope(() => {
      const file = openSafetensors(path);
      const x = file.tensor("x");
      file.close();
      expect(memoryStats("cpu").liveBytes).toBe(before.liveBytes);
      expect([...x.toFloat32Array()]).toEqual([1, 2, 3]);
    });
    expect(liveTensors()).toBe(tensorsBefore);
  });

  it("says what it lacks", () => {
    scope(() => writeSafetensors(path, [["x", zeros([1])]]));
    const file = openSafetensors(path);
    expect(() => file.tensor("y")).toThrow(`${path}: there is no tensor "y"`);
    expect(() => file.entry("toString")).toThrow(UserError);
    file.close();
  });
});

describe("writing", () => {
  it("leaves the file as it was when a tensor cannot be computed, and nothing beside it", () => {
    const folder = mkdtempSync(join(root, "fails-"));
    const file = join(folder, "a.safetensors");
    scope(() => writeSafetensors(file, [["x", zeros([1])]]));
    const before = readFileSync(file);
    const failing = (): never => {
      throw new Error("no such factor");
    };
    const source = { name: "x", dtype: "float32", shape: [4], read: failing } as const;
    expect(() => [...writeShards(folder, [source], { shardBytes: 100 })]).toThrow("no such factor");
    expect(readFileSync(file).equals(before)).toBe(true);
    expect(readdirSync(folder)).toEqual(["a.safetensors"]);
  });

  it("refuses a tensor that is not what its header said, and two of one name", () => {
    const wrong = { name: "x", dtype: "float32", shape: [4], read: () => zeros([5]) } as const;
    expect(() => [...writeShards(root, [wrong], { shardBytes: 100 })]).toThrow('"x" is float32 [5]');
    const twice = ["x", "x"].map((name) =>
      sourceOf({ name, dtype: "uint8", shape: [0], bytes: Buffer.of() }),
    );
    expect(() => [...writeShards(root, twice, { shardBytes: 100 })]).toThrow("different names");
  });

  it("of a folder that is not there says so", () => {
    expect(() => writeSafetensors(join(root, "none", "a.safetensors"), [])).toThrow(UserError);
  });

  it("makes views contiguous and brings elements in order", () => {
    scope(() => {
      writeSafetensors(path, [["t", fromArray([1, 2, 3, 4, 5, 6], [2, 3]).t()]]);
      const file = openSafetensors(path);
      expect([...file.tensor("t").toFloat32Array()]).toEqual([1, 4, 2, 5, 3, 6]);
      file.close();
    });
  });
});

describe("shards", () => {
  it("hold every tensor once, none above the size but a single tensor, and an index that says where", () => {
    const sizes = fc.integer({ min: 1, max: 200 });
    fc.assert(
      fc.property(tensors, sizes, (given, shardBytes) => {
        const folder = mkdtempSync(join(root, "shards-"));
        writeFileSync(join(folder, "config.json"), "{}");
        const written = [...writeShards(folder, given.map(sourceOf), { shardBytes })];
        const totalBytes = given.reduce((sum, { bytes }) => sum + bytes.length, 0);
        expect(written.reduce((sum, bytes) => sum + bytes, 0)).toBe(totalBytes);
        const { weights } = openModelFolder(folder);
        const bytesOf = new Map<string, number[]>();
        scope(() => {
          for (const { name, bytes } of given) {
            const { file, bytes: entryBytes } = weights.entry(name);
            bytesOf.set(file, [...(bytesOf.get(file) ?? []), entryBytes]);
            expect(Buffer.from(weights.tensor(name).toBytes()).equals(bytes)).toBe(true);
          }
        });
        weights.close();
        for (const parts of bytesOf.values()) {
          const held = parts.filter((bytes) => bytes > 0);
          const sum = held.reduce((total, bytes) => total + bytes, 0);
          expect(sum <= shardBytes || held.length === 1).toBe(true);
        }
        rmSync(folder, { recursive: true });
      }),
      { numRuns: 40 },
    );
  });

  it("are numbered, carry metadata, and the index states the total", () => {
    const folder = mkdtempSync(join(root, "named-"));
    const given = ["a", "b", "c"].map((name) =>
      sourceOf({ name, dtype: "uint8", shape: [6], bytes: new Uint8Array(6) }),
    );
    for (const _ of writeShards(folder, given, { shardBytes: 12 }));
    const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    expect(readdirSync(folder).sort()).toEqual([...shards, "model.safetensors.index.json"]);
    expect(JSON.parse(readFileSync(join(folder, "model.safetensors.index.json"), "utf8"))).toEqual({
      metadata: { total_size: 18 },
      weight_map: { a: shards[0], b: shards[0], c: shards[1] },
    });
    expect(readHeader(join(folder, shards[1]!)).metadata).toEqual({ format: "pt" });
  });
});

describe("a file that is cut off", () => {
  it("is refused at every length, by name", () => {
    scope(() => writeSafetensors(path, [["x", zeros([3])]], { format: "pt" }));
    const bytes = readFileSync(path);
    for (let length = bytes.length - 1; length >= 0; length--) {
      truncateSync(path, length);
      expect(() => openSafetensors(path), `${length} bytes`).toThrow(UserError);
      expect(() => openSafetensors(path), `${length} bytes`).toThrow(path);
    }
  });
});
