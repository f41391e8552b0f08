import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/torch/libtorch.ts";

it("the GPU bench goes through every kind of configuration on a tiny model, and its table has what each took", () => {
  const run = (script: string, ...args: string[]): string => {
    const { stdout, stderr, status } = spawnSync(process.execPath, [join(packageRoot, script), ...args], {
      encoding: "utf8",
    });
    expect(`${status} ${status === 0 ? "" : stdout + stderr}`).toBe("0 ");
    return stdout;
  };
  run("node_modules/typescript/bin/tsc", "-p", join(packageRoot, "bench"));
  const bench = join("bench-out", "bench", "gpu", "run.js");
  const tables = run(
    bench,
    "--device",
    "cpu",
    "--size",
    "tiny",
    "--steps",
    "1",
    "--python",
    "no-such-python",
  );
  const rows = tables.split("\n").filter((line) => line.startsWith("| hd_num"));
  const [speeds, memory] = [rows.slice(0, 8), rows.slice(8)];
  expect(memory).toHaveLength(8);
  for (const row of speeds) {
    const [, , ours, , kernels, rate, tokens, hidden, stall, steadiness] = row.split("|");
    expect(ours).toMatch(/^ \d+\.\d\d s, \d+\.\d MiB $/);
    expect([rate, stall].every((share) => /^ [\d.]+ % $/.test(share!))).toBe(true);
    expect(hidden).toMatch(row.includes("resident") ? /^ - $/ : /^ \d+ % $/);
    expect(Number(tokens) * Number(steadiness)).toBeGreaterThan(0);
    if (!/fp8|streamed|Ahead/.test(row)) expect(kernels).toContain("ended before it answered");
  }
  for (const row of memory) {
    const [, , planned, measured, off] = row.split("|");
    for (const cell of [planned, measured]) expect(cell).toMatch(/^ \d+\.\d MiB \/ - $/);
    expect(Math.abs(Number.parseFloat(off!))).toBeLessThan(1);
  }
  expect(rows.filter((row) => row.includes("streamed, cap"))).toHaveLength(2);
}, 240_000);
