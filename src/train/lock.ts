/** One run at a time in an output folder: run.lock in it names the process, and is given up when that ends, however it ends. */
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { cannotWrite } from "../checkpoint/faults.ts";
import { UserError } from "../errors.ts";

export const LOCK_FILE = "run.lock";

interface Holder {
  pid: number;
  host: string;
  /** By which a process is told from a later one of its number; null where the system does not say. */
  started: string | null;
}

/** Takes the folder, which is made where it is missing, and returns how to give it up. Throws UserError where another process has it. */
export function lockOutput(output: string): () => void {
  const path = join(output, LOCK_FILE);
  const own = JSON.stringify({ pid: process.pid, host: hostname(), started: startOf(process.pid) });
  try {
    mkdirSync(output, { recursive: true });
    while (!created(path, own)) removeStale(path); // again where another one came in between: it throws if that is alive
  } catch (cause) {
    throw cause instanceof UserError ? cause : cannotWrite(output, cause);
  }
  const release = (): void => {
    process.off("exit", release);
    if (textOf(path) === own) rmSync(path, { force: true });
  };
  process.on("exit", release);
  return release;
}

/** Whether the file was made, whole from its first moment; false where there is one. */
function created(path: string, text: string): boolean {
  const aside = `${path}.${process.pid}`;
  try {
    writeFileSync(aside, text);
    linkSync(aside, path);
    return true;
  } catch (cause) {
    const { code, syscall } = cause as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    if (syscall !== "link") throw cause;
    return createdInPlace(path, text); // a file system without hard links
  } finally {
    rmSync(aside, { force: true });
  }
}

function createdInPlace(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: "wx" });
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw cause;
  }
}

/** Removes the lock of a process that is gone, if it has not just been given up. Throws UserError where it is not, or where nobody can tell. */
function removeStale(path: string): void {
  const text = textIn(path);
  if (text === undefined) return;
  const holder = holderOf(text);
  if (holder && (holder.host !== hostname() || isAlive(holder))) throw taken(path, holder);
  rmSync(path, { force: true });
}

function taken(path: string, { pid, host }: Holder): UserError {
  const isHere = host === hostname();
  return new UserError(`${path}: another run trains into this folder: process ${pid} on ${host}.`, {
    fix: isHere
      ? `Wait for its end, stop it with kill -INT ${pid} (it saves a checkpoint), or pass another --output.`
      : `Pass another --output. If ${host} runs it no longer, remove the file and try again.`,
  });
}

function holderOf(text: string): Holder | undefined {
  try {
    const { pid, host, started } = JSON.parse(text) as Holder;
    return Number.isInteger(pid) && typeof host === "string" ? { pid, host, started } : undefined;
  } catch {
    return undefined; // cut off by a crash
  }
}

function isAlive({ pid, started }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"; // another user's
  }
  const now = startOf(pid);
  return started === null || now === null || now === started;
}

/** When a process began, in the clock ticks of Linux. */
function startOf(pid: number): string | null {
  const stat = textOf(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
}

/** Undefined where the file is gone. */
function textIn(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw cause;
  }
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
