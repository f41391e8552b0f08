/**
 * Allows one run at a time in an output folder: run.lock names the process, and is free when that process
 * ends, however it ends.
 */
import { createHash, randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { cannotWrite } from "../../checkpoint/faults.ts";
import { makeFolder } from "../../checkpoint/files/disk.ts";
import { UserError } from "../../errors.ts";

export const LOCK_FILE = "run.lock";

/** Times that an empty lock is read again. */
const MOST_LOOKS = 5;
const LOOK_AGAIN_MS = 100;

interface Holder {
  pid: number;
  host: string;
  /**
   * Start of the process, in clock ticks: tells it from a later process with the same number. Null if the
   * system does not report it.
   */
  started: string | null;
  /** Slurm job of the process, and how often Slurm has restarted it; null outside of a job. */
  job: { id: string; restarts: number } | null;
}

/**
 * Locks the folder, making it if it is missing, and returns a function that frees it. Throws UserError if
 * another process holds the lock.
 */
export function lockOutput(output: string): () => void {
  const path = join(output, LOCK_FILE);
  const holder: Holder = { pid: process.pid, host: hostname(), started: startOf(process.pid), job: ownJob() };
  const own = JSON.stringify({ ...holder, id: randomUUID() }); // no two locks are equal
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

/** The process that a lock names. */
export interface LockHolder {
  pid: number;
  host: string;
  /** Whether the process is on this machine. */
  isHere: boolean;
  /** Whether it may still run: known for a process on this machine, assumed for another. */
  mayRun: boolean;
  /** Whether the process of this number is surely the one that made the lock: it began at the same moment. */
  isProven: boolean;
}

/** Returns the process that has locked the folder; undefined without a lock, or if it is cut off. */
export function lockHolder(output: string): LockHolder | undefined {
  const holder = holderOf(textIn(join(output, LOCK_FILE)) ?? "");
  if (!holder) return undefined;
  const { pid, host, started } = holder;
  const isHere = host === hostname();
  const mayRun = !isGone(holder);
  return {
    pid,
    host,
    isHere,
    mayRun,
    isProven: isHere && mayRun && started !== null && started === startOf(pid),
  };
}

/**
 * Makes the lock, or replaces a stale one. If several processes find the same stale lock, only the one that
 * creates `<lock>.<hash>` may replace it, and it reads the lock again first, so that it never replaces the
 * lock of a faster process. A stale `<lock>.<hash>` is replaced in the same way. Throws UserError if the
 * holder still runs, or if that can't be known.
 */
function take(path: string, own: string): void {
  while (!created(path, own)) {
    const stale = staleIn(path);
    if (stale === undefined) continue; // freed a moment ago
    const heir = `${path}.${createHash("sha256").update(stale).digest("hex").slice(0, 16)}`;
    take(heir, own);
    if (textIn(path) === stale) {
      renameSync(heir, path);
      return;
    }
    rmSync(heir);
  }
}

/** Creates the file, complete from its first moment. Returns false if there is one already. */
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

/**
 * Returns the lock of a process that has ended; undefined if there is no lock. Throws UserError if it still
 * runs, or if that can't be known.
 */
function staleIn(path: string): string | undefined {
  const text = filledTextIn(path);
  const holder = text === undefined ? undefined : holderOf(text);
  if (holder && !isGone(holder)) throw taken(path, holder);
  return text;
}

/**
 * Reads a lock, waiting while it is empty: a lock made in place is empty for a moment. It stays empty if its
 * process died then.
 */
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
      ? `Wait until it ends, stop it with kill -INT ${pid} (it saves a checkpoint), or pass another --output.`
      : `Pass another --output. If it no longer runs on ${host}, remove the file and try again.`,
  });
}

function holderOf(text: string): Holder | undefined {
  try {
    const { pid, host, started, job = null } = JSON.parse(text) as Holder;
    return Number.isInteger(pid) && pid > 0 && typeof host === "string"
      ? { pid, host, started, job }
      : undefined;
  } catch {
    return undefined; // cut off by a crash
  }
}

/**
 * Whether a holder has ended. A job that Slurm restarts has ended wherever it ran before, also if its node
 * failed.
 */
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
  const hasEnded = stat[0] === "Z" || stat[0] === "X"; // its parent has not asked for its exit code
  if (hasEnded) return false;
  const now = stat[19] ?? null;
  return started === null || now === null || now === started;
}

/** Returns the start of a process, in the clock ticks of Linux. */
function startOf(pid: number): string | null {
  return statOf(pid)[19] ?? null;
}

/** Reads the fields of /proc/PID/stat from the state on; empty on other systems. */
function statOf(pid: number): string[] {
  const stat = textIn(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ") ?? [];
}

/** Reads a file; undefined if there is no such file, or no such process. */
function textIn(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    const { code = "" } = cause as NodeJS.ErrnoException;
    if (["ENOENT", "ENOTDIR", "ESRCH"].includes(code)) return undefined;
    throw cause;
  }
}
