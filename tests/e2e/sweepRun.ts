/** Sweeps of a very small model, as processes. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import type { Trial } from "../../src/runs/sweepTable.ts";
import { sweepNow } from "../../src/sweep/show.ts";
import { makeWorkplace } from "../faults/trainRun.ts";
import { PROGRAM, type Run } from "./lorafit.ts";

export interface SweepPlace {
  folder: string;
  /** Options of every trial. */
  base: Record<string, unknown>;
  /** Writes a configuration with these options beside the base's, and returns the arguments of a sweep. */
  argsOf: (name: string, options: Record<string, unknown>) => string[];
  /** Folder of the sweep of this name. */
  output: (name: string) => string;
}

export async function makeSweepPlace(): Promise<SweepPlace> {
  const { folder, input } = await makeWorkplace();
  const evalData = join(folder, "eval.jsonl");
  const [first, second] = readFileSync(input.data, "utf8").split("\n"); // short ones without pictures
  writeFileSync(evalData, `${first}\n${second}\n`);
  const { lora_r: _, lora_alpha: __, learning_rate: ___, ...shared } = input;
  const base = { ...shared, eval_data: evalData, max_steps: 4, lr_schedule: "constant" };
  const output = (name: string): string => join(folder, name);
  return {
    folder,
    base,
    output,
    argsOf(name, options) {
      const config = join(folder, `${name}.yaml`);
      writeFileSync(config, stringify({ ...base, ...options }));
      return ["sweep", "--config", config, "--output", output(name), "--json"];
    },
  };
}

/** Returns the trials of a sweep as `lorafit sweep show` has them. */
export async function shown(output: string): Promise<Trial[]> {
  return (await sweepNow(output)).table.trials;
}

export function trialsIn(stdout: string): Trial[] {
  return stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

/** Starts a sweep. `ended` has its output and its exit code. */
export function startSweep(args: string[]): { process: ChildProcess; ended: Promise<Run> } {
  const child = spawn(process.execPath, [PROGRAM, ...args]);
  const printed = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].on("data", (chunk) => {
      printed[name] += chunk;
    });
  const ended = once(child, "close").then(([code]) => ({ code, ...printed }));
  return { process: child, ended };
}
