/** One run at a time in an output folder: run.lock in it names the process, and is given up when that ends, however it ends. */
import { createHash, randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { makeFolder } from "../../checkpoint/disk.ts";
import { cannotWrite } from "../../checkpoint/faults.ts";
import { UserError } from "../../errors.ts";

export const LOCK_FILE = "run.lock";

/** How often an empty lock is looked at again. */
const MOST_LOOKS = 5;
const LOOK_AGAIN_MS = 100;

interface Holder {
  pid: number;
  host: string;
  /** By which a process is told from a later one of its number; null where the system does not say. */
  started: string | null;
  /** The Slurm job that it is of, and how often Slurm has started that anew; null outside of one. */
  job: { id: string; restarts: number } | null;
}

/** Takes the folder, which is made where it is missing, and returns how to give it up. Throws UserError where another process has it. */
export function lockOutput(output: string): () => void {
  const path = join(output, LOCK_FILE);
  const holder: Holder = { pid: process.pid, host: hostname(), started: startOf(process.pid), job: ownJob() };
  const own = JSON.stringify({ ...holder, id: randomUUID() }); // no lock is the like of an earlier one
  try {
    makeFolder(output);
    take(path, own);
  } catch (cause) {
    throw cause instanceof UserError ? cause : cannotWrite(output, cause);
  }
  const release = (): void => {
    process.off("exit", release);
    if (textIn(path) === own) rmSync(path, { force: true });
  };
  process.on("exit", release);
  return release;
}

/**
 * Makes the file, or takes the place of one whose process is gone. Of all that find the same one gone, only who makes the file of its heir may
 * replace it, and looks again first, so none can replace the lock of another that was faster. An heir that is gone has an heir in turn.
 * Throws UserError where the holder is not gone, or where nobody can tell.
 */
function take(path: string, own: string): void {
  while (!created(path, own)) {
    const stale = staleIn(path);
    if (stale === undefined) continue; // given up a moment ago
    const heir = `${path}.${createHash("sha256").update(stale).digest("hex").slice(0, 16)}`;
    take(heir, own);
    if (textIn(path) === stale) {
      renameSync(heir, path);
      return;
    }
    rmSync(heir);
  }
}

/** Whether the file was made, whole from its first moment; false where there is one. */
function created(path: string, text: string): boolean {
  const aside = `${path}.${randomUUID()}`; // on another machine a process may have the same number
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

/** The lock of a process that is gone; undefined where there is no lock. Throws UserError where it is not gone, or where nobody can tell. */
function staleIn(path: string): string | undefined {
  const text = filledTextIn(path);
  const holder = text === undefined ? undefined : holderOf(text);
  if (holder && !isGone(holder)) throw taken(path, holder);
  return text;
}

/** The text of a lock once it is there: one that is made in place is empty for a moment. Stays empty where its maker died in that moment. */
function filledTextIn(path: string): string | undefined {
  let text = textIn(path);
  for (let look = 0; look < MOST_LOOKS && text === ""; look++) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK_AGAIN_MS);
    text = textIn(path);
  }
  return text;
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
    const { pid, host, started, job = null } = JSON.parse(text) as Holder;
    return Number.isInteger(pid) && typeof host === "string" ? { pid, host, started, job } : undefined;
  } catch {
    return undefined; // cut off by a crash
  }
}

/** A job that Slurm starts anew, after its node has failed too, has ended wherever it ran before. */
function isGone(holder: Holder): boolean {
  const job = ownJob();
  if (job && holder.job?.id === job.id && holder.job.restarts < job.restarts) return true;
  return holder.host === hostname() && !isAlive(holder);
}

function ownJob(): Holder["job"] {
  const { SLURM_JOB_ID: id, SLURM_RESTART_COUNT: restarts = 0 } = process.env;
  return id ? { id, restarts: Number(restarts) } : null;
}

function isAlive({ pid, started }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"; // another user's
  }
  const stat = statOf(pid);
  if (stat[0] === "Z" || stat[0] === "X") return false; // it has ended, and nobody has asked how
  const now = stat[19] ?? null;
  return started === null || now === null || now === started;
}

/** When a process began, in the clock ticks of Linux. */
function startOf(pid: number): string | null {
  return statOf(pid)[19] ?? null;
}

/** What Linux says of a process, from its state on; nothing elsewhere. */
function statOf(pid: number): string[] {
  const stat = textIn(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ") ?? [];
}

/** Undefined where there is no such file, or no such process. */
function textIn(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    const { code = "" } = cause as NodeJS.ErrnoException;
    if (["ENOENT", "ENOTDIR", "ESRCH"].includes(code)) return undefined;
    throw cause;
  }
}
