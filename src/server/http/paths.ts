/** Keeps paths of requests and of data within a folder. */
import { realpathSync } from "node:fs";
import { stat } from "node:fs/promises";
import { isAbsolute, relative, resolve, sep } from "node:path";

/**
 * Returns the real path of a file or folder; undefined if it is missing, or if it lies outside of `folder`,
 * by `..` or by a symbolic link. folder: absolute, without symbolic links.
 */
export function realPathBelow(folder: string, path: string): string | undefined {
  if (path.includes("\0")) return undefined;
  try {
    const real = realpathSync(resolve(folder, path));
    return isBelow(folder, real) ? real : undefined;
  } catch {
    return undefined;
  }
}

/** Returns whether a path without symbolic links is the folder or lies below it. */
export function isBelow(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/** Returns whether a path is a plain file: reading a device or a pipe might never end. */
export async function isPlainFile(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isFile(),
    () => false,
  );
}
