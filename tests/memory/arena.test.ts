import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { empty, ones } from "../../src/torch/create.ts";
import { emptyCache, memoryStats, pool } from "../../src/torch/device.ts";
import { native } from "../../src/torch/native.ts";
import { scope } from "../../src/torch/tensor.ts";

const MIB = 2 ** 20;

describe("the arena by itself", () => {
  const folder = mkdtempSync(join(tmpdir(), "lorafit-arena-"));
  const program = join(folder, "arena");

  beforeAll(() => {
    const sources = [
      join(import.meta.dirname, "arena.cc"),
      join(import.meta.dirname, "../../native/arena.cc"),
    ];
    const { status, stderr } = spawnSync("g++", ["-std=c++20", "-O1", "-pthread", "-o", program, ...sources]);
    if (status !== 0) throw new Error(`the arena's tests don't compile: ${stderr}`);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each([
    ["blocks are aligned, don't overlap, and become one run when all are free", "blocks"],
    ["threads may share it", "threads"],
    ["rounds of the same blocks take nothing fresh after the first", "rounds"],
    ["freed neighbours become one run", "neighbours"],
    ["a block goes into the shortest run that fits", "shortest"],
    ["a large free gives memory back up to the bound, a trim all of it", "large"],
    ["what is resident follows what is live, whatever lies in between", "follows"],
    ["what no machine has is refused", "impossible"],
    ["where addresses are limited it takes none", "limited"],
  ])("%s", (_, name) => {
    const { status, stderr } = spawnSync(program, [name], { encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });
});

describe("tensors on cpu", () => {
  test("what a model leaves is the system's again", () => {
    const before = residentBytes();
    scope(() => {
      for (let layer = 0; layer < 8; ++layer) ones([64 * MIB], { dtype: "uint8" });
      expect(residentBytes() - before).toBeGreaterThan(500 * MIB);
    });
    expect(residentBytes() - before).toBeLessThan(80 * MIB);
    emptyCache("cpu");
    expect(arenaBytes().cached).toBe(0);
    expect(residentBytes() - before).toBeLessThan(16 * MIB);
  });

  test("large ones of both pools lie in the arena, small ones don't, and the books are the same", () => {
    const [before, booked] = [arenaBytes().live, memoryStats("cpu").liveBytes];
    const [host, blocks] = [memoryStats("cpu", "host").liveBytes, memoryStats("cpu").liveCount];
    scope(() => {
      empty([MIB], { dtype: "uint8" });
      pool("host", () => empty([MIB], { dtype: "uint8" }));
      empty([1000], { dtype: "uint8" });
      expect(arenaBytes().live - before).toBe(2 * (MIB + 64));
      expect(memoryStats("cpu").liveBytes - booked).toBe(MIB + 1000);
      expect(memoryStats("cpu", "host").liveBytes - host).toBe(MIB);
      expect(memoryStats("cpu").liveCount - blocks).toBe(2);
    });
    expect(arenaBytes().live).toBe(before);
  });

  test("products in rounds take nothing fresh after the first", () => {
    const round = () =>
      scope(() => {
        const x = ones([1024, 64], { dtype: "bfloat16" });
        x.mm(ones([64, 2048], { dtype: "bfloat16" })).mul(2);
      });
    round();
    const before = arenaBytes().fresh;
    for (let turn = 0; turn < 20; ++turn) round();
    expect(arenaBytes().fresh).toBe(before);
  });
});

/** Returns the bytes of the arena that holds large CPU tensors. */
function arenaBytes(): { live: number; cached: number; fresh: number } {
  const [live = 0, , cached = 0, fresh = 0] = native.cpuMemory();
  return { live, cached, fresh };
}

function residentBytes(): number {
  return Number(/^VmRSS:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
}
