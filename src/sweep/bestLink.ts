/** The link `best` in a sweep's folder, which leads to the adapter of the best trial. */
import { readlinkSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { cannotWrite } from "../checkpoint/faults.ts";

export const BEST_LINK = "best";

/** Points the link to a folder, given from the sweep's folder. The link is never missing in between. */
export function linkBest(folder: string, adapter: string): void {
  const link = join(folder, BEST_LINK);
  if (targetOf(link) === adapter) return;
  const aside = join(folder, `.writing-${BEST_LINK}`);
  try {
    rmSync(aside, { force: true });
    symlinkSync(adapter, aside, "dir");
    renameSync(aside, link);
  } catch (cause) {
    throw cannotWrite(link, cause);
  }
}

function targetOf(link: string): string | undefined {
  try {
    return readlinkSync(link);
  } catch {
    return undefined;
  }
}
