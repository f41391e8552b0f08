import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, vi } from "vitest";
import { processesWith, rankProcess } from "../helpers/rankProcesses.ts";
import { golden } from "../helpers/shared.ts";
import { PROGRAM, type Run, records } from "./lorafit.ts";

const SLOW_MACHINE = { timeout: 280_000 };

const folder = mkdtempSync(join(tmpdir(), "ranks-"));
afterAll(() => rmSync(folder, { recursive: true }));

function trainingInto(output: string, steps: number): string[] {
  const data = ["--model", golden("tiny"), "--data", golden("tiny_cases/cases.jsonl"), "--output", output];
  return [
    "train",
    ...data,
    "--max-steps",
    `${steps}`,
    "--gradient-accumulation",
    "2",
    "--lora-r",
    "4",
    "--json",
  ];
}

function start(words: string[], variables: Record<string, string> = {}) {
  const child = spawn(process.execPath, [PROGRAM, ...words], { env: { ...process.env, ...variables } });
  return { child, run: runOf(child) };
}

async function runOf(child: ChildProcessWithoutNullStreams): Promise<Run> {
  const run: Run = { code: null, stdout: "", stderr: "" };
  child.stdout.on("data", (chunk) => (run.stdout += chunk));
  child.stderr.on("data", (chunk) => (run.stderr += chunk));
  [run.code] = (await once(child, "close")) as [number | null];
  return run;
}

/** Waits until a run has done its first step. */
async function stepDone(output: string): Promise<void> {
  const log = join(output, "steps.jsonl");
  await vi.waitFor(() => expect(existsSync(log) && readFileSync(log, "utf8")).toContain("\n"), {
    timeout: 200_000,
    interval: 50,
  });
}

it(
  "--cpu-ranks 2 trains as one process does, and prints the records of rank 0 alone",
  SLOW_MACHINE,
  async () => {
    const alone = records(await start(trainingInto(join(folder, "alone"), 3)).run) as { loss: number }[];
    const output = join(folder, "two");
    const run = await start([...trainingInto(output, 3), "--cpu-ranks", "2"]).run;
    const together = records(run) as { loss: number; ranks: number; waitRatio: number }[];
    expect(together).toHaveLength(3);
    for (const [index, { loss, ranks, waitRatio }] of together.entries()) {
      expect(loss).toBeCloseTo(alone[index]!.loss, 5);
      expect(ranks).toBe(2);
      expect(waitRatio).toBeGreaterThanOrEqual(0);
    }
    expect(run.stderr).toContain("rank 0 of 2, by lorafit, host");
    expect(run.stderr).not.toContain("rank 1 of 2");
    expect(readFileSync(join(output, "ranks", "rank-1.log"), "utf8")).toContain(
      "rank 1 of 2, by lorafit, host",
    );
    expect(readFileSync(join(output, "train.yaml"), "utf8")).not.toContain("cpu_ranks");
  },
);

it("ranks by plain variables train together", SLOW_MACHINE, async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  const words = trainingInto(join(folder, "plain"), 2);
  const runs = await Promise.all(
    [0, 1].map((rank) => {
      const place = { RANK: `${rank}`, WORLD_SIZE: "2", LOCAL_RANK: `${rank}`, LOCAL_WORLD_SIZE: "2" };
      return start(words, { ...place, MASTER_ADDR: "127.0.0.1", MASTER_PORT: `${port}` }).run;
    }),
  );
  expect(records(runs[0]!)).toHaveLength(2);
  expect(records(runs[1]!)).toEqual([]);
  expect(runs[1]!.stderr).toContain("rank 1 of 2, by environment variables, host");
});

it(
  "Ctrl-C stops all ranks with one checkpoint, and the printed command continues with ranks",
  SLOW_MACHINE,
  async () => {
    const output = join(folder, "stopped");
    const { child, run } = start([...trainingInto(output, 500), "--cpu-ranks", "2"]);
    await stepDone(output);
    child.kill("SIGINT");
    const { code, stderr } = await run;
    expect(code, stderr).toBe(130);
    expect(stderr).toContain("stopping after this step (again to stop at once)");
    expect(stderr).toContain(`Continue with:  npx lorafit train --resume ${output} --cpu-ranks 2`);
    expect(processesWith(output)).toEqual([]);
  },
);

it("a killed rank ends the others, with its code and its name", SLOW_MACHINE, async () => {
  const output = join(folder, "killed");
  const { run } = start([...trainingInto(output, 500), "--cpu-ranks", "2"]);
  await stepDone(output);
  process.kill(await rankProcess(1, output), "SIGKILL");
  const { code, stderr } = await run;
  expect(code, stderr).toBe(137);
  expect(stderr).toMatch(/Rank 1 \(host .*\) is lost/);
  expect(stderr).toContain("rank 1 was ended by SIGKILL; the others were ended.");
  expect(processesWith(output)).toEqual([]);
});

it("a killed launcher leaves no rank", SLOW_MACHINE, async () => {
  const output = join(folder, "orphans");
  const { child, run } = start([...trainingInto(output, 500), "--cpu-ranks", "2"]);
  await stepDone(output);
  child.kill("SIGKILL");
  await vi.waitFor(() => expect(processesWith(output)).toEqual([]), { timeout: 120_000, interval: 100 });
  await run;
});
