/**
 * Finds the folders of runs and sweeps below a folder, and finds changes cheaply: a folder's time of change
 * tells whether anything in it was added or removed. Symbolic links are not followed, so nothing outside is
 * found, and no circle.
 */
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { LOCK_FILE } from "../train/folder/runLock.ts";
import { ADAPTER_FOLDER, BEST_FOLDER, FACTS_FILE, STEPS_FILE } from "../train/folder/runLog.ts";
import { SWEEP_FILE } from "./sweepTable.ts";

export interface FoundFolder {
  /** Path below the root, with `/`; "." for the root itself. */
  path: string;
  folder: string;
  kind: "run" | "sweep";
  /** Changes if a file in the folder appears or goes. */
  changedAtMs: number;
}

interface Seen {
  changedAtMs: number;
  /** When it was read; a change soon after may have the same time. */
  readAtMs: number;
  kind: FoundFolder["kind"] | undefined;
  folders: string[];
}

const MOST_FOLDERS = 50_000;
const MOST_DEPTH = 12;
/** Folders between two turns of the event loop. */
const FOLDERS_AT_ONCE = 100;
/** Steps of the clock of file systems: two changes within one have the same time. */
const CLOCK_MS = 2000;

/** Folders of a run that hold no run. */
const LEFT_OUT = new Set<string>([ADAPTER_FOLDER, BEST_FOLDER, "tensorboard", "node_modules"]);

export class RunFinder {
  readonly #root: string;
  #seen = new Map<string, Seen>();

  constructor(root: string) {
    this.#root = root;
  }

  /** Looks through the folders, and returns what is there now. */
  async find(): Promise<FoundFolder[]> {
    const found: FoundFolder[] = [];
    const seen = new Map<string, Seen>();
    const queue: [path: string, depth: number][] = [[".", 0]];
    for (let next = queue.pop(); next && seen.size < MOST_FOLDERS; next = queue.pop()) {
      const [path, depth] = next;
      const folder = join(this.#root, path);
      const look = lookInto(folder, this.#seen.get(path));
      if (!look) continue;
      seen.set(path, look);
      if (look.kind) found.push({ path, folder, kind: look.kind, changedAtMs: look.changedAtMs });
      if (depth < MOST_DEPTH)
        for (const name of look.folders) queue.push([path === "." ? name : `${path}/${name}`, depth + 1]);
      if (seen.size % FOLDERS_AT_ONCE === 0) await setImmediate();
    }
    this.#seen = seen;
    return found;
  }
}

/** Reads a folder, unless it is as it was; undefined if it is gone or can't be read. */
function lookInto(folder: string, before: Seen | undefined): Seen | undefined {
  try {
    const status = lstatSync(folder);
    if (!status.isDirectory()) return undefined;
    const { mtimeMs: changedAtMs } = status;
    const isSettled = before && before.readAtMs - before.changedAtMs > CLOCK_MS;
    if (isSettled && before.changedAtMs === changedAtMs) return before;
    const readAtMs = Date.now();
    const entries = readdirSync(folder, { withFileTypes: true });
    const names = new Set(entries.map(({ name }) => name));
    const isRun = names.has(STEPS_FILE) || names.has(FACTS_FILE) || names.has(LOCK_FILE);
    return {
      ...{ changedAtMs, readAtMs },
      kind: names.has(SWEEP_FILE) ? "sweep" : isRun ? "run" : undefined,
      folders: entries
        .filter((entry) => entry.isDirectory() && !isLeftOut(entry.name))
        .map(({ name }) => name),
    };
  } catch {
    return undefined;
  }
}

function isLeftOut(name: string): boolean {
  return name.startsWith(".") || LEFT_OUT.has(name) || /^(broken-)?checkpoint-\d/.test(name);
}
