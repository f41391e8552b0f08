/**
 * Keeps measurements of this machine in files of the user's cache folder, so that a later start need not
 * measure again.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { keepInCache, userCacheFolder } from "../../torch/install/userCache.ts";

/**
 * Returns the value under a key of a file. Measures it if there is none, or if the value is no longer
 * `valid`; `measure` then gets the old value.
 */
export function remembered<T>(
  name: string,
  key: string,
  measure: (before: T | undefined) => T,
  { folder = userCacheFolder(), valid = () => true }: { folder?: string; valid?: (value: T) => boolean } = {},
): { value: T; isNew: boolean } {
  const file = join(folder, name);
  const known = knownIn<T>(name, folder);
  const value = known[key];
  if (value !== undefined && valid(value)) return { value, isNew: false };
  const measured = measure(value);
  keepInCache(file, JSON.stringify({ ...known, [key]: measured }));
  return { value: measured, isNew: true };
}

/** Returns the entries of a file, by key. */
export function knownIn<T>(name: string, folder = userCacheFolder()): Record<string, T> {
  const file = join(folder, name);
  try {
    const known: unknown = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
    return typeof known === "object" && known !== null ? (known as Record<string, T>) : {};
  } catch {
    return {}; // a truncated file is measured again
  }
}
