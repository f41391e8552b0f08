/**
 * Keeps what was read of runs in the user's cache folder, so that the next start need not read long logs
 * again. A digest holds its places in the logs, and is dropped if the logs no longer continue from there.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { keepInCache, userCacheFolder } from "../torch/install/userCache.ts";
import type { RunDigest } from "./knownRun.ts";

/** Raised when a digest has other fields; older ones are then not used. */
const VERSION = 2;

/** Returns the digests of runs by their path below the folder; none if the file is missing or damaged. */
export function storedDigests(root: string): Map<string, RunDigest> {
  try {
    const { version, digests } = JSON.parse(readFileSync(fileOf(root), "utf8")) as {
      version: number;
      digests: [string, RunDigest][];
    };
    return new Map(version === VERSION ? digests : []);
  } catch {
    return new Map();
  }
}

export function storeDigests(root: string, digests: ReadonlyMap<string, RunDigest>): void {
  keepInCache(fileOf(root), JSON.stringify({ version: VERSION, root, digests: [...digests] }));
}

function fileOf(root: string): string {
  const name = createHash("sha256").update(root).digest("hex").slice(0, 16);
  return join(userCacheFolder(), "runs", `${name}.json`);
}
