/** Where the tests find their data: fixtures of the project, and the reference data beside a checkout where there is one. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Path of a fixture below tests/golden. */
export function golden(path: string): string {
  return fileURLToPath(new URL(`../golden/${path}`, import.meta.url));
}

/** Path of a file in the folder shared/ beside the checkout, or undefined (and a line saying so) where there is none. */
export function findShared(path: string): string | undefined {
  const found = fileURLToPath(new URL(`../../../shared/${path}`, import.meta.url));
  if (existsSync(found)) return found;
  console.warn(`skipped: ../shared/${path} is not here`);
  return undefined;
}
