import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../shared.ts";
import { lorafit, PROGRAM, records } from "./lorafit.ts";

const SLOW_MACHINE = { timeout: 240_000 };

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "interrupt-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

it("Ctrl-C saves a checkpoint and says how to go on, which then ends the run", SLOW_MACHINE, async () => {
  const output = join(folder, "run");
  const data = ["--model", golden("tiny"), "--data", golden("tiny_cases/cases.jsonl"), "--output", output];
  const length = ["--max-steps", "20", "--gradient-accumulation", "1", "--save-every", "1000"];
  const args = [...data, ...length, "--lora-r", "4", "--json"];
  const child = spawn(process.execPath, [PROGRAM, "train", ...args]);
  let [stdout, stderr] = ["", ""];
  child.stderr.on("data", (chunk) => (stderr += chunk));
  child.stdout.on("data", (chunk) => {
    if (stdout === "") child.kill("SIGINT");
    stdout += chunk;
  });
  const code = await new Promise((done) => child.on("close", done));
  expect(code).toBe(130);
  expect(stderr).toContain("stopping after this micro-batch (again to stop at once)");
  expect(stderr).toContain(`Go on with:  npx lorafit train --resume ${output}`);

  const before = stdout.split("\n").filter(Boolean).length;
  const rest = records(lorafit(["train", "--resume", output, "--json"])) as { step: number }[];
  expect(before).toBeLessThan(20);
  expect(rest.map(({ step }) => step)).toEqual(
    Array.from({ length: 20 - before }, (_, index) => before + 1 + index),
  );
});

it("Ctrl-C during lorafit quantize leaves nothing behind", SLOW_MACHINE, async () => {
  const model = join(folder, "model");
  lorafit(["tiny", "--output", model, "--layers", "40", "--hidden", "512", "--ffn", "1024"]);
  const output = join(folder, "quantised");
  const child = spawn(process.execPath, [PROGRAM, "quantize", "--model", model, "--output", output]);
  let stderr = "";
  child.stderr.on("data", (chunk) => {
    if (stderr === "") child.kill("SIGINT"); // the first line of progress
    stderr += chunk;
  });
  expect(await new Promise((done) => child.on("close", done))).toBe(130);
  expect(stderr).toContain("stopped: nothing was written");
  expect(readdirSync(folder).filter((name) => name.includes("quantised"))).toEqual([]);
});

it(
  "Ctrl-C during lorafit pages leaves nothing behind, and the next run is not hindered",
  SLOW_MACHINE,
  async () => {
    const output = join(folder, "pages");
    const args = ["pages", "--output", output, "--width", "256", "--height", "256"];
    const child = spawn(process.execPath, [PROGRAM, ...args, "--count", "5000"]);
    let stderr = "";
    child.stderr.on("data", (chunk) => {
      if (stderr === "") child.kill("SIGINT"); // the first line of progress
      stderr += chunk;
    });
    expect(await new Promise((done) => child.on("close", done))).toBe(130);
    expect(stderr).toContain("stopped: nothing was written");
    expect(readdirSync(folder).filter((name) => name.includes("pages"))).toEqual([]);
    expect(lorafit([...args, "--count", "1"]).code).toBe(0);
  },
);
