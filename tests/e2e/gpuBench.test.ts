import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { packageRoot } from "../../src/torch/install/libtorch.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "gpu-bench-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function run(script: string, ...args: string[]): { stdout: string; stderr: string } {
  const { stdout, stderr, status } = spawnSync(process.execPath, [join(packageRoot, script), ...args], {
    encoding: "utf8",
  });
  expect(`${status} ${status === 0 ? "" : stdout + stderr}`).toBe("0 ");
  return { stdout, stderr };
}

it("the GPU bench goes through every kind of configuration on a tiny model, and its table has what each took", () => {
  run("node_modules/typescript/bin/tsc", "-p", join(packageRoot, "bench"));
  const bench = join("bench-out", "bench", "gpu", "run.js");
  const out = join(folder, "bench.md");
  const flags = [
    "--device",
    "cpu",
    "--size",
    "tiny",
    "--steps",
    "1",
    "--python",
    "no-such-python",
    "--out",
    out,
  ];

  // In parts, as on a card that is lent for minutes: one line per measurement, and no measurement is
  // repeated.
  run(bench, ...flags, "--sides", "lorafit", "--only", "bf16, resident");
  const journal = out.replace(".md", ".jsonl");
  expect(readFileSync(journal, "utf8").trim().split("\n")).toHaveLength(1);
  writeFileSync(journal, '{"cut', { flag: "a" }); // as a kill leaves it
  const { stdout: tables, stderr } = run(bench, ...flags);
  expect(stderr).not.toContain("bf16, resident  lorafit");
  expect(readFileSync(out, "utf8").trim()).toBe(tables.trim());
  expect(run(bench, ...flags, "--sides", "lorafit").stderr).toBe("");

  const rows = tables.split("\n").filter((line) => line.startsWith("| hd_num"));
  const [speeds, memory] = [rows.slice(0, 11), rows.slice(11)];
  expect(memory).toHaveLength(11);
  for (const row of speeds) {
    const [, , ours, , kernels, rate, tokens, hidden, stall, steadiness] = row.split("|");
    expect(ours).toMatch(/^ \d+\.\d\d s, \d+\.\d MiB $/);
    expect([rate, stall].every((share) => /^ [\d.]+ % $/.test(share!))).toBe(true);
    if (!row.includes("planned")) expect(hidden).toMatch(row.includes("resident") ? /^ - $/ : /^ \d+ % $/);
    expect(Number(tokens) * Number(steadiness)).toBeGreaterThan(0);
    if (!/fp8|streamed|Ahead|planned \|/.test(row)) expect(kernels).toContain("no-such-python ENOENT");
  }
  for (const row of memory) {
    const [, , planned, measured, off] = row.split("|");
    for (const cell of [planned, measured]) expect(cell).toMatch(/^ \d+\.\d MiB \/ - $/);
    expect(Math.abs(Number.parseFloat(off!))).toBeLessThan(1);
  }
  expect(tables).toMatch(/\| NF4 at most 10 % slower than bf16 \| -?[\d.]+ % slower \| (yes|no) \|/);
  expect(tables).toMatch(/\| the whole page trains under a cap of 8 GiB, nf4 \| not measured yet \| - \|/);
}, 240_000);

it("the GPU bench says which of its flags can't be meant", () => {
  const args = [join(packageRoot, "bench-out/bench/gpu/run.js"), "--sides", "liger"];
  expect(spawnSync(process.execPath, args, { encoding: "utf8" }).stderr).toContain(
    "--sides takes some of lorafit",
  );
});
