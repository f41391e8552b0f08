import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UserError } from "../errors.ts";
import { liveTensors, memoryStats } from "./device.ts";
import { mapFile } from "./files.ts";
import { keep, scope } from "./tensor.ts";

let folder: string;
let file: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "lorafit-files-"));
  file = join(folder, "numbers");
  writeFileSync(file, new Uint8Array(new Float32Array([1, 2, 3, 4, 5, 6]).buffer));
});
afterAll(() => rmSync(folder, { recursive: true }));

test("a tensor on the mapping reads the file and is not counted", () => {
  using mapped = mapFile(file);
  expect(mapped.byteLength).toBe(24);
  const before = memoryStats("cpu");
  scope(() => {
    const x = mapped.tensor(4, "float32", [2, 2]);
    expect([...x.toFloat32Array()]).toEqual([2, 3, 4, 5]);
    expect(memoryStats("cpu").liveBytes).toBe(before.liveBytes);
  });
  expect(memoryStats("cpu").liveBytes).toBe(before.liveBytes);
});

test("a tensor keeps the mapping alive after the file is closed, deleted even", () => {
  const copy = join(folder, "gone");
  writeFileSync(copy, readFileSync(file));
  const mapped = mapFile(copy);
  using x = keep(scope(() => mapped.tensor(0, "float32", [6])));
  mapped.close();
  rmSync(copy);
  expect(x.sum().item()).toBe(21);
  expect(() => mapped.bytes(0, 1)).toThrow("the mapped file is closed");
  expect(() => mapped.tensor(0, "float32", [1])).toThrow("the mapped file is closed");
});

test("writing in place changes memory alone", () => {
  using mapped = mapFile(file);
  scope(() => {
    const x = mapped.tensor(0, "float32", [6]);
    expect(x.mul_(10).sum().item()).toBe(210);
  });
  expect([...new Float32Array(new Uint8Array(readFileSync(file)).buffer)]).toEqual([1, 2, 3, 4, 5, 6]);
});

test("elements across their alignment are copied, bytes are as in the file", () => {
  using mapped = mapFile(file);
  scope(() => {
    const odd = mapped.tensor(3, "float32", [2]);
    expect(odd.toBytes()).toEqual(mapped.bytes(3, 8));
    expect(mapped.tensor(1, "uint8", [3]).toBytes()).toEqual(mapped.bytes(1, 3));
    expect(mapped.tensor(24, "float32", [0]).numel).toBe(0);
  });
});

test.each([
  [20, [2]],
  [25, [0]],
  [-4, [1]],
  [0, [7]],
  [0, [2 ** 40, 2 ** 40]],
  [0, [-1]],
  [2 ** 60, [1]],
])("a tensor at %d of shape %j is refused: it is not in the file", (offset, shape) => {
  const before = liveTensors();
  using mapped = mapFile(file);
  expect(() => mapped.tensor(offset, "float32", shape)).toThrow(
    /outside of a file of 24 bytes|impossible shape|whole number/,
  );
  expect(liveTensors()).toBe(before);
});

test("bytes outside of the file are refused", () => {
  using mapped = mapFile(file);
  expect(() => mapped.bytes(20, 5)).toThrow("5 bytes at 20 are outside of a file of 24 bytes");
  expect(() => mapped.bytes(0, -1)).toThrow();
});

test("an empty file has no bytes, and a missing one is a user's error with its path", () => {
  const empty = join(folder, "empty");
  writeFileSync(empty, "");
  using mapped = mapFile(empty);
  expect(mapped.byteLength).toBe(0);
  expect(mapped.bytes(0, 0)).toEqual(new Uint8Array(0));
  expect(() => mapFile(join(folder, "missing"))).toThrow(UserError);
  expect(() => mapFile(join(folder, "missing"))).toThrow("missing: No such file or directory");
  expect(() => mapFile(folder)).toThrow("not a regular file");
});
