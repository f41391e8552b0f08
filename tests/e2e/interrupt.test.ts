import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../helpers/shared.ts";
import { lorafit, PROGRAM, records } from "./lorafit.ts";

const SLOW_MACHINE = { timeout: 240_000 };

let folder: string;
/** Large enough that a command can be stopped while it works with the model. */
let model: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "interrupt-"));
  model = join(folder, "model");
  lorafit(["tiny", "--output", model, "--layers", "40", "--hidden", "512", "--ffn", "1024"]);
});
afterAll(() => rmSync(folder, { recursive: true }));

/**
 * Starts a command and calls `disturb` at its first output to a stream. Returns the exit code and the whole
 * output.
 */
async function disturbed(
  args: string[],
  stream: "stdout" | "stderr",
  disturb: (child: ChildProcessWithoutNullStreams) => void,
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [PROGRAM, ...args]);
  const printed = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].on("data", (chunk) => {
      if (name === stream && printed[name] === "") disturb(child);
      printed[name] += chunk;
    });
  const code = await new Promise<number | null>((done) => child.on("close", done));
  return { code, ...printed };
}

/** Returns the arguments of a run that saves only at its end. */
function trainingInto(output: string, model = golden("tiny")): string[] {
  const data = ["--model", model, "--data", golden("tiny_cases/cases.jsonl"), "--output", output];
  const length = ["--max-steps", "20", "--gradient-accumulation", "1", "--save-every", "1000"];
  return ["train", ...data, ...length, "--lora-r", "4", "--json"];
}

it("Ctrl-C saves a checkpoint and says how to go on, which then ends the run", SLOW_MACHINE, async () => {
  const output = join(folder, "run");
  const { code, stdout, stderr } = await disturbed(trainingInto(output), "stdout", (child) =>
    child.kill("SIGINT"),
  );
  expect(code).toBe(130);
  expect(stderr).toContain("stopping after this micro-batch (again to stop at once)");
  expect(stderr).toContain(`Continue with:  npx lorafit train --resume ${output}`);

  const before = records({ code: 0, stdout, stderr }).length;
  const rest = records(lorafit(["train", "--resume", output, "--json"])) as { step: number }[];
  expect(before).toBeLessThan(20);
  expect(rest.map(({ step }) => step)).toEqual(
    Array.from({ length: 20 - before }, (_, index) => before + 1 + index),
  );
});

it.each<[string, string, (child: ChildProcessWithoutNullStreams) => void]>([
  [
    "Ctrl-C that ends tee as well",
    "piped",
    (child) => {
      child.stdout.destroy();
      child.stderr.destroy();
      child.kill("SIGINT");
    },
  ],
  ["a reader that goes", "unread", (child) => child.stdout.destroy()],
])("%s loses nothing: the run saves", SLOW_MACHINE, async (_, name, disturb) => {
  const output = join(folder, name);
  expect((await disturbed(trainingInto(output), "stdout", disturb)).code).toBe(130);
  expect(readdirSync(output)).toContainEqual(expect.stringMatching(/^checkpoint-\d+$/));
});

it("Ctrl-C before a run's first step ends it at once", SLOW_MACHINE, async () => {
  const output = join(folder, "loading");
  // the notice about alpha comes before the model is loaded, which takes some time in NF4
  const args = [...trainingInto(output, model), "--base", "nf4", "--lora-alpha", "64"];
  const { code, stderr } = await disturbed(args, "stderr", (child) => child.kill("SIGINT"));
  expect(code, stderr).toBeNull(); // ended by the signal itself
  expect(existsSync(join(output, "steps.jsonl"))).toBe(false);
});

it.each([
  ["quantize", () => ["--model", model]],
  ["pages", () => ["--count", "5000", "--width", "256", "--height", "256"]],
] as const)("Ctrl-C during lorafit %s leaves nothing behind", SLOW_MACHINE, async (command, more) => {
  const args = [command, "--output", join(folder, command), ...more()];
  const { code, stderr } = await disturbed(args, "stderr", (child) => child.kill("SIGINT")); // at its first line of progress
  expect(code).toBe(130);
  expect(stderr).toContain("stopped: nothing was written");
  expect(readdirSync(folder).filter((name) => name.includes(command))).toEqual([]);
});

it(
  "Ctrl-C during lorafit eval ends it after a sample, with the mean so far, and with no total for scripts",
  SLOW_MACHINE,
  async () => {
    const args = ["eval", "--model", golden("tiny"), "--data", golden("tiny_cases/cases.jsonl"), "--json"];
    const { code, stdout, stderr } = await disturbed(args, "stdout", (child) => child.kill("SIGINT"));
    expect(code).toBe(130);
    expect(stderr).toMatch(/stopped after \d of 5 samples\. These: {2}loss \d/);
    for (const row of records({ code: 0, stdout, stderr })) expect(row).toHaveProperty("index");
  },
);

it("Ctrl-C during lorafit fit tells the longest so far, and how to go on", SLOW_MACHINE, async () => {
  const args = ["fit", "--model", golden("tiny"), "--device", "cpu", "--memory", "1GiB", "--from", "64"];
  const { code, stdout, stderr } = await disturbed(args, "stdout", (child) => child.kill("SIGINT"));
  expect(code).toBe(130);
  expect(stderr).toMatch(
    /stopped: so far the longest that fits has [\d,]+ tokens\. Continue from there with: {2}--from \d+\n$/,
  );
  expect(stdout).not.toContain("longest that fits");
});

it("lorafit eval ends at once, and well, where its reader has enough", SLOW_MACHINE, async () => {
  const args = ["eval", "--model", golden("tiny"), "--data", golden("tiny_cases/cases.jsonl"), "--json"];
  const { code, stderr } = await disturbed(args, "stdout", (child) => child.stdout.destroy());
  expect(code, stderr).toBe(0);
  expect(stderr).not.toContain("stopping");
});
