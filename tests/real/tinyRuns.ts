/** Real runs of a tiny model on drawn pages, for tests that look at them. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { lorafit, PROGRAM, type Run } from "../e2e/lorafit.ts";
import { PATIENCE_MS } from "./browser.ts";

export interface Workshop {
  /** Folder with everything; the page is opened on it. */
  folder: string;
  model: string;
  data: string;
  /** Some of the pages, to evaluate on. */
  evalData: string;
  /** Trains to the end; throws with what it said if it fails. */
  train(name: string, flags?: readonly string[]): string;
  /** Sweeps to the end, with the same settings as train(). */
  sweep(name: string, flags?: readonly string[]): string;
  /** Runs any other command. */
  lorafit(args: readonly string[]): Run;
  /** Starts a run and returns at once. It is killed after the file's tests. */
  start(name: string, flags?: readonly string[]): StartedRun;
}

export interface StartedRun {
  output: string;
  child: ChildProcess;
  /** Resolves with the exit code, or null after a signal. */
  exit: Promise<number | null>;
  /** Waits until the run has logged `count` steps. */
  steps(count: number): Promise<void>;
  stderr(): string;
}

const TINY_FLAGS = ["--layers", "2", "--vision-hidden", "32", "--vision-layers", "1", "--vision-ffn", "128"];
const FAST = [
  ...[
    "--hd-num",
    "1",
    "--memory",
    "64MiB",
    "--gradient-accumulation",
    "1",
    "--lora-r",
    "8",
    "--lora-dropout",
    "0",
  ],
  ...["--learning-rate", "1e-3", "--warmup-steps", "2", "--weight-decay", "0"],
];

/** Draws pages and writes a tiny checkpoint in a new folder, which is removed after the file's tests. */
export function makeWorkshop({ pages = 8, evaluated = 3 } = {}): Workshop {
  const folder = mkdtempSync(join(tmpdir(), "real-"));
  folders.push(folder);
  const [model, data] = [join(folder, "tiny"), join(folder, "pages", "data.txt")];
  const evalData = join(folder, "pages", "evaluated.json");
  run([
    "pages",
    "--output",
    join(folder, "pages"),
    "--count",
    String(pages),
    "--width",
    "960",
    "--height",
    "640",
  ]);
  run(["tiny", "--output", model, ...TINY_FLAGS]);
  const samples = JSON.parse(readFileSync(join(folder, "pages", "pages.json"), "utf8")) as unknown[];
  writeFileSync(evalData, JSON.stringify(samples.slice(0, evaluated)));
  const argsOf = (output: string, flags: readonly string[], command = "train"): string[] => {
    const fast = FAST.flatMap((flag, at) =>
      at % 2 === 0 && !flags.includes(flag) ? [flag, FAST[at + 1]!] : [],
    );
    return [command, "--model", model, "--data", data, "--output", output, ...fast, ...flags];
  };
  return {
    ...{ folder, model, data, evalData },
    train(name, flags = []) {
      const output = join(folder, name);
      run(argsOf(output, flags));
      return output;
    },
    sweep(name, flags = []) {
      const output = join(folder, name);
      run(argsOf(output, flags, "sweep"));
      return output;
    },
    lorafit: (args) => lorafit([...args]),
    start: (name, flags = []) => startRun(join(folder, name), argsOf(join(folder, name), flags)),
  };
}

function run(args: readonly string[]): void {
  const { status, stderr } = spawnSync(process.execPath, [PROGRAM, ...args], { encoding: "utf8", env: ENV });
  if (status !== 0) throw new Error(`lorafit ${args.join(" ")} ended with ${status}: ${stderr}`);
}

/** Threads that wait must sleep: the browser needs the cores too. */
const ENV = { ...process.env, OMP_WAIT_POLICY: "PASSIVE" };

function startRun(output: string, args: readonly string[]): StartedRun {
  const child = spawn(process.execPath, [PROGRAM, ...args], {
    stdio: ["ignore", "ignore", "pipe"],
    env: ENV,
  });
  started.push(child);
  let told = "";
  child.stderr.on("data", (text: Buffer) => {
    told += text.toString();
  });
  const exit = once(child, "exit").then(([code]) => code as number | null);
  return {
    ...{ output, child, exit },
    stderr: () => told,
    async steps(count) {
      const deadlineMs = Date.now() + PATIENCE_MS;
      while (loggedSteps(output) < count) {
        if (Date.now() > deadlineMs || child.exitCode !== null)
          throw new Error(`${output} has ${loggedSteps(output)} of ${count} steps: ${told}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
  };
}

function loggedSteps(output: string): number {
  const file = join(output, "steps.jsonl");
  return existsSync(file) ? readFileSync(file, "utf8").split("\n").length - 1 : 0;
}

const started: ChildProcess[] = [];
const folders: string[] = [];

afterAll(async () => {
  for (const child of started)
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGKILL");
      await once(child, "exit");
    }
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});
