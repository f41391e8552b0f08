import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../shared.ts";
import { lorafit, PROGRAM, records } from "./lorafit.ts";

const SLOW_MACHINE = { timeout: 240_000 };
const STOPPING = "stopping after this micro-batch (again to stop at once)";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "interrupt-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Printed {
  stdout: string;
  stderr: string;
}

/** A run on the tiny checkpoint that gets Ctrl-C as many times as `interrupts` says of what it has printed; how it ended. */
async function interrupted(
  args: string[],
  interrupts: (printed: Printed) => number,
): Promise<Printed & { code: unknown }> {
  const child = spawn(process.execPath, [PROGRAM, "train", "--model", golden("tiny"), ...args]);
  const printed: Printed = { stdout: "", stderr: "" };
  let sent = 0;
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].on("data", (chunk) => {
      printed[stream] += chunk;
      if (sent < interrupts(printed)) sent += Number(child.kill("SIGINT"));
    });
  }
  const code = await new Promise((done) => child.on("close", done));
  return { ...printed, code };
}

it("Ctrl-C saves a checkpoint and says how to go on, which then ends the run", SLOW_MACHINE, async () => {
  const output = join(folder, "run");
  const data = ["--data", golden("tiny_cases/cases.jsonl"), "--output", output];
  const length = ["--max-steps", "20", "--gradient-accumulation", "1", "--save-every", "1000"];
  const args = [...data, ...length, "--lora-r", "4", "--json"];
  const { code, stdout, stderr } = await interrupted(args, ({ stdout: steps }) => (steps === "" ? 0 : 1));
  expect(code).toBe(130);
  expect(stderr).toContain(STOPPING);
  expect(stderr).toContain(`Go on with:  npx lorafit train --resume ${output}`);

  const before = stdout.split("\n").filter(Boolean).length;
  const rest = records(lorafit(["train", "--resume", output, "--json"])) as { step: number }[];
  expect(before).toBeLessThan(20);
  expect(rest.map(({ step }) => step)).toEqual(
    Array.from({ length: 20 - before }, (_, index) => before + 1 + index),
  );
});

it("a second Ctrl-C stops at once, in the middle of a micro-batch", SLOW_MACHINE, async () => {
  const data = join(folder, "large.jsonl");
  const images = [golden("hd_pixels/a_grad_500x311.in.png")];
  const sample = { input_ids: [1, -200, 5], labels: [-100, -100, 5], images, hd_num: 55 };
  writeFileSync(data, JSON.stringify(sample)); // thousands of rows: a micro-batch takes seconds
  const output = join(folder, "stopped");
  const args = ["--data", data, "--output", output, "--max-length", "10000"];
  const { code, stderr } = await interrupted(args, ({ stderr: said }) =>
    said.includes(STOPPING) ? 2 : Number(said.includes("LoRA r")),
  );
  expect(code).toBe(130);
  expect(stderr).toContain(STOPPING);
  expect(stderr).not.toContain("Go on with");
  expect(readdirSync(output).filter((name) => name.startsWith("checkpoint"))).toEqual([]);
});
