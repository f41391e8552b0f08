/** lorafit's files in the user's cache folder: what costs time to make again and nothing else. */
import { randomUUID } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** Read at each call: tests and programs set the environment. */
export function userCacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "lorafit");
}

/** Renamed when it is whole, so that two runs and a full disk leave no half of a file; a cache that can't be written costs a start its time. */
export function keepInCache(file: string, data: string | Uint8Array): void {
  const part = `${file}.${randomUUID()}`;
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(part, data);
    renameSync(part, file);
  } catch {
    try {
      rmSync(part, { force: true });
    } catch {} // its folder is none
  }
}
