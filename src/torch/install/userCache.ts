/** lorafit's files in the user's cache folder. Losing them costs only the time to make them again. */
import { randomUUID } from "node:crypto";
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** Returns the cache folder. Reads the environment at each call, because tests and programs change it. */
export function userCacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "lorafit");
}

/**
 * Writes a file under another name and renames it when complete, so that two runs or a full disk leave no
 * partial file. Ignores errors: without the cache, a start only takes longer.
 */
export function keepInCache(file: string, data: string | Uint8Array): void {
  const part = `${file}.${randomUUID()}`;
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(part, data);
    renameSync(part, file);
  } catch {
    try {
      rmSync(part, { force: true });
    } catch {} // its folder does not exist
  }
}
