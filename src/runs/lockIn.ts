/** Reads who holds a folder, whatever stands in the place of its lock. */
import { lstatSync } from "node:fs";
import { join } from "node:path";
import { LOCK_FILE, type LockHolder, lockHolder } from "../train/folder/runLock.ts";

/** A lock of ours has a few hundred bytes. */
const MOST_BYTES = 2 ** 14;

/** Returns the process that holds the folder; undefined if its lock is missing or cannot be read. */
export function holderIn(folder: string): LockHolder | undefined {
  try {
    const status = lstatSync(join(folder, LOCK_FILE), { throwIfNoEntry: false });
    return status?.isFile() && status.size <= MOST_BYTES ? lockHolder(folder) : undefined;
  } catch {
    return undefined; // out of reach, or another user's
  }
}
