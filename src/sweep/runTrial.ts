/**
 * Runs a part of a trial as a process of its own, so that a trial that crashes takes nothing with it. If the
 * sweep is killed, the process finds nobody to read its output, saves a checkpoint and ends.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../errors.ts";
import { lockHolder } from "../train/folder/runLock.ts";
import type { Slot } from "./devices.ts";

export interface Part {
  /** Configuration of the trial's run, the folder of the run, and the file for its messages. */
  config: string;
  run: string;
  log: string;
  /** Step at which the part ends with an evaluation. Default: the run's end. */
  stopAt?: number;
  /** Steps from one evaluation to the next. Default: as the configuration says. */
  evalEvery?: number;
}

/** A step that a trial has done. */
export interface StepDone {
  step: number;
  loss: number;
}

export interface TrialHooks {
  /** Stops the part with a checkpoint. */
  signal: AbortSignal;
  /** File that starts lorafit. */
  program: string;
  environment: NodeJS.ProcessEnv;
  onStep: (done: StepDone) => void;
  notice: (text: string) => void;
}

export type PartEnd = { ended: "done" | "interrupted" } | { ended: "failed"; error: string };

export async function runPart(part: Part, slot: Slot, hooks: TrialHooks): Promise<PartEnd> {
  await untilFree(part.run, hooks);
  if (hooks.signal.aborted) return { ended: "interrupted" };
  const { signal, program } = hooks;
  const log = openSync(part.log, "a");
  const before = statSync(part.log).size;
  try {
    const child = spawn(process.execPath, [program, ...wordsOf(part, slot)], {
      env: { ...hooks.environment, ...slot.environment },
      stdio: ["ignore", "pipe", log],
      detached: true, // Ctrl-C reaches the sweep alone, which passes it on once
    });
    const stop = (): boolean => child.kill("SIGINT");
    signal.addEventListener("abort", stop);
    try {
      const ended = once(child, "close");
      for await (const line of createInterface(child.stdout!)) report(line, hooks);
      const [code, killed] = (await ended) as [number | null, NodeJS.Signals | null];
      if (code === 0) return { ended: "done" };
      if (signal.aborted) return { ended: "interrupted" };
      return { ended: "failed", error: errorIn(part.log, before) ?? endingOf(code, killed) };
    } finally {
      signal.removeEventListener("abort", stop);
    }
  } catch (thrown) {
    return { ended: "failed", error: messageOf(thrown) };
  } finally {
    closeSync(log);
  }
}

function wordsOf({ config, stopAt, evalEvery }: Part, { options }: Slot): string[] {
  return [
    ...["train", "--config", config, "--json"],
    ...(stopAt === undefined ? [] : ["--stop-at-step", String(stopAt)]),
    ...(evalEvery === undefined ? [] : ["--eval-every", String(evalEvery)]),
    ...(options.device === undefined ? [] : ["--device", options.device]),
  ];
}

const LOOK_AGAIN_MS = 100;

/**
 * Waits while a process of a sweep that was killed still saves into the folder. If the lock is of another
 * machine, the run itself says what to do.
 */
async function untilFree(run: string, { signal, notice }: TrialHooks): Promise<void> {
  for (let isFirst = true; !signal.aborted; isFirst = false) {
    const holder = lockHolder(run);
    if (!holder?.mayRun || !holder.isHere) return;
    if (isFirst) notice(`waiting for process ${holder.pid}, which still trains into ${run}`);
    await sleep(LOOK_AGAIN_MS);
  }
}

function report(line: string, { onStep }: TrialHooks): void {
  try {
    const { step, loss } = JSON.parse(line);
    if (typeof step === "number") onStep({ step, loss });
  } catch {} // cut off by a crash, whose message says more
}

function endingOf(code: number | null, killed: NodeJS.Signals | null): string {
  if (killed === "SIGKILL")
    return "its process was killed (SIGKILL), as Linux does if the machine's memory runs out";
  return killed ? `its process was ended by ${killed}` : `its process ended with code ${code}`;
}

const MOST_ERROR_LINES = 8;

/** Returns the error that a process has written at the end of its messages; undefined without one. */
function errorIn(log: string, from: number): string | undefined {
  const text = readFileSync(log).subarray(from).toString("utf8");
  const at = text.lastIndexOf("error: ");
  if (at < 0 || !(at === 0 || text[at - 1] === "\n")) return undefined;
  return text
    .slice(at + "error: ".length)
    .trimEnd()
    .split("\n")
    .slice(0, MOST_ERROR_LINES)
    .join("\n");
}
