/** Finds test data: fixtures of the project, and the reference data beside a checkout if there is any. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Returns the path of a fixture below tests/golden. */
export function golden(path: string): string {
  return fileURLToPath(new URL(`../golden/${path}`, import.meta.url));
}

/** Returns the path of a file in shared/ beside the checkout; undefined, with a warning, if it is missing. */
export function findShared(path: string): string | undefined {
  const found = fileURLToPath(new URL(`../../../shared/${path}`, import.meta.url));
  if (existsSync(found)) return found;
  console.warn(`skipped: ../shared/${path} is not here`);
  return undefined;
}
