import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it, vi } from "vitest";
import { PROGRAM, type Run } from "../e2e/lorafit.ts";
import { rankProcess } from "../helpers/rankProcesses.ts";
import { golden } from "../helpers/shared.ts";

const TORCHRUN =
  process.env.LORAFIT_TORCHRUN ?? fileURLToPath(new URL(".venv/bin/torchrun", import.meta.url));
const SLOW_MACHINE = { timeout: 580_000 };

const folder = mkdtempSync(join(tmpdir(), "torchrun-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Starts two ranks by torchrun, which finds a free port. */
async function torchrun(flags: string[], words: string[]): Promise<Run> {
  const ranks = ["--no-python", "--standalone", "--nproc-per-node", "2", ...flags];
  const child = spawn(TORCHRUN, [...ranks, process.execPath, PROGRAM, ...words]);
  const run: Run = { code: null, stdout: "", stderr: "" };
  child.stdout.on("data", (chunk) => (run.stdout += chunk));
  child.stderr.on("data", (chunk) => (run.stderr += chunk));
  [run.code] = (await once(child, "close")) as [number | null];
  return run;
}

function trainingInto(output: string, steps: number): string[] {
  const data = ["--model", golden("tiny"), "--data", golden("tiny_cases/cases.jsonl"), "--output", output];
  const saving = ["--save-every", "1", "--resume"];
  return [
    "train",
    ...data,
    "--max-steps",
    `${steps}`,
    "--gradient-accumulation",
    "2",
    "--lora-r",
    "4",
    ...saving,
  ];
}

it("torchrun's ranks train together", SLOW_MACHINE, async () => {
  const { code, stderr } = await torchrun([], trainingInto(join(folder, "run"), 3));
  expect(code, stderr).toBe(0);
  for (const rank of [0, 1]) expect(stderr).toContain(`rank ${rank} of 2, by torchrun, host`);
  const steps = readFileSync(join(folder, "run", "steps.jsonl"), "utf8")
    .trim()
    .split("\n");
  expect(steps.map((line) => JSON.parse(line).ranks)).toEqual([2, 2, 2]);
});

it("torchrun --max-restarts starts anew after a killed rank, and the run goes on", SLOW_MACHINE, async () => {
  const output = join(folder, "restarted");
  const run = torchrun(["--max-restarts", "1"], trainingInto(output, 30));
  await vi.waitFor(() => expect(existsSync(join(output, "checkpoint-2"))).toBe(true), {
    timeout: 240_000,
    interval: 20,
  });
  process.kill(await rankProcess(1, output), "SIGKILL");
  const { code, stderr } = await run;
  expect(code, stderr).toBe(0);
  expect(stderr.match(/rank 0 of 2, by torchrun/g)).toHaveLength(2); // two attempts
  expect(stderr).toMatch(/from step \d+ of 30/);
  const steps = readFileSync(join(output, "steps.jsonl"), "utf8").trim().split("\n");
  expect(steps.map((line) => JSON.parse(line).step)).toEqual(
    Array.from({ length: 30 }, (_, step) => step + 1),
  );
});

it("without restarts torchrun ends with an error that names the rank", SLOW_MACHINE, async () => {
  const output = join(folder, "failed");
  const run = torchrun([], trainingInto(output, 500));
  await vi.waitFor(() => expect(existsSync(join(output, "checkpoint-1"))).toBe(true), {
    timeout: 240_000,
    interval: 20,
  });
  process.kill(await rankProcess(1, output), "SIGKILL");
  const { code, stderr } = await run;
  expect(code).toBe(1);
  expect(stderr).toMatch(/Signal 9 \(SIGKILL\)/);
});

it("doctor --peers works under torchrun, whose agent serves the store", SLOW_MACHINE, async () => {
  const { code, stdout, stderr } = await torchrun([], ["doctor", "--peers", "--timeout", "120", "--json"]);
  expect(code, stderr).toBe(0);
  const rows = stdout.split("\n").filter((line) => line.startsWith("{"));
  const ranks = rows.map((line) => JSON.parse(line)).filter(({ what }) => what === "rank");
  const share = Math.max(1, Math.floor(availableParallelism() / 2)); // not torchrun's OMP_NUM_THREADS=1
  expect(ranks.map(({ rank, threads }) => [rank, threads])).toEqual([
    [0, share],
    [1, share],
  ]);
});
