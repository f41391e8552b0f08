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
  const table = run(bench, "--device", "cpu", "--size", "tiny", "--steps", "1", "--python", "no-such-python");
  const rows = table.split("\n").filter((line) => line.startsWith("| hd_num"));
  expect(rows).toHaveLength(8);
  for (const row of rows) {
    const [, , ours, planned, , kernels, rate, tokens, hidden, stall, steadiness] = row.split("|");
    expect(ours).toMatch(/^ \d+\.\d\d s, \d+\.\d MiB $/);
    expect(planned).toMatch(/^ \d+\.\d MiB $/);
    expect([rate, stall].every((share) => /^ [\d.]+ % $/.test(share!))).toBe(true);
    expect(hidden).toMatch(row.includes("resident") ? /^ - $/ : /^ \d+ % $/);
    expect(Number(tokens) * Number(steadiness)).toBeGreaterThan(0);
    if (!/fp8|Ahead/.test(row)) expect(kernels).toContain("ended before it answered");
  }
  expect(rows.some((row) => row.includes("streamed, cap"))).toBe(true);
}, 240_000);
