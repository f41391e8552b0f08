/** Errors for damaged files and for disks that refuse. */
import { faultOf, UserError } from "../errors.ts";

/** Returns the error for a damaged file; `fault` is a clause about it. */
export function damaged(path: string, fault: string, cause?: unknown): UserError {
  return new UserError(`${path}: ${fault}.`, {
    fix: "The file is damaged, or is not what its name says: download or copy it again.",
    cause,
  });
}

const POINTER = "version https://git-lfs";

/**
 * Throws UserError if a file's first bytes are those of a git-lfs pointer, which a clone without git-lfs has
 * instead of weights.
 */
export function refusePointer(path: string, start: Buffer): void {
  if (!start.toString("latin1").startsWith(POINTER.slice(0, start.length)) || start.length < 4) return;
  throw new UserError(`${path} is a git-lfs pointer, not the weights themselves.`, {
    fix: "Run `git lfs pull` in that folder, or download the file.",
  });
}

const MOST_QUOTED = 120; // characters

/** Returns a name from a file as a message shows it: quoted, escaped, and cut after 120 characters. */
export function quoted(name: string): string {
  return JSON.stringify(name.length > MOST_QUOTED ? `${name.slice(0, MOST_QUOTED)}...` : name);
}

const TOO_LARGE = new Set(["ERR_FS_FILE_TOO_LARGE", "ERR_STRING_TOO_LONG"]);

/**
 * Turns a disk's refusal to read into a UserError. Other errors are defects of lorafit and are returned
 * unchanged.
 */
export function cannotRead(path: string, cause: unknown): unknown {
  const { code, syscall } = (cause ?? {}) as NodeJS.ErrnoException;
  if (cause instanceof UserError || !(syscall !== undefined || TOO_LARGE.has(code ?? ""))) return cause;
  return new UserError(`${path} cannot be read: ${faultOf(cause)}.`, {
    fix: "Check that the file is there and that you may read it.",
    cause,
  });
}

const REMEDIES: Readonly<Record<string, string>> = {
  ENOSPC: "The disk is full: make room, or write to another one.",
  EDQUOT: "Your disk quota is used up: make room, or write elsewhere.",
  EACCES: "Choose a place where you may write.",
  EPERM: "Choose a place where you may write.",
  EROFS: "This file system is read-only: choose another place.",
  ENOENT: "Make that folder first.",
  EISDIR: "Name a file, which may be in that folder.",
  ENOTDIR: "Correct the path.",
  EEXIST: "Name another folder, or remove the file.",
};

/** Turns a disk's refusal to write into a UserError. Other errors are returned unchanged. */
export function cannotWrite(path: string, cause: unknown): unknown {
  const code: unknown = (cause as NodeJS.ErrnoException | undefined)?.code;
  if (cause instanceof UserError || typeof code !== "string") return cause; // an abort has a number
  const fault = code === "ENOENT" ? "the folder that it should go to is not there" : faultOf(cause);
  return new UserError(`${path} cannot be written: ${fault}.`, {
    fix: REMEDIES[code] ?? "Check the path and the disk.",
    cause,
  });
}
