/** Tells whether a path lies within a folder. */
import { isAbsolute, relative, sep } from "node:path";

/** Returns whether a real path lies below a folder's real path. */
export function isBelow(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way !== "" && way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}
