/**
 * Simulates a disk that is full, or lost, from a given operation on: `vi.mock("node:fs", async (original) =>
 * withFaults(await original()))`. Nothing is really synced: a test cannot see it, and it takes long. Instead,
 * a rename throws if written files have not been synced.
 */

/**
 * With operation `failAt` it refuses one operation (the disk is full), or with `killed` all that follow too
 * (the process was killed).
 */
export const disk = { operations: 0, failAt: Number.POSITIVE_INFINITY, killed: false };

const OPERATIONS = ["openSync", "writeSync", "fsyncSync", "renameSync", "mkdirSync", "copyFileSync"] as const;

export function withFaults(given: typeof import("node:fs")): typeof import("node:fs") {
  const real = { ...given, ...syncingOnPaper(given) };
  const broken = OPERATIONS.map((name) => [name, failing(real[name] as (...values: unknown[]) => unknown)]);
  const rmSync: typeof real.rmSync = (...values) => {
    if (!disk.killed || disk.operations < disk.failAt) real.rmSync(...values);
  };
  return { ...real, ...Object.fromEntries(broken), rmSync };
}

/** Files that have been written and not synced since, by descriptor. */
const unsynced = new Set<number>();

/** Records which files are synced. Throws when something is renamed before everything written is synced. */
function syncingOnPaper(
  real: typeof import("node:fs"),
): Pick<typeof import("node:fs"), "openSync" | "writeSync" | "fsyncSync" | "renameSync"> {
  return {
    openSync: (path, flags, mode) => {
      const file = real.openSync(path, flags, mode);
      if (flags === "r") unsynced.delete(file);
      else unsynced.add(file);
      return file;
    },
    writeSync: ((file: number, ...values: [never]) => {
      unsynced.add(file);
      return real.writeSync(file, ...values);
    }) as typeof real.writeSync,
    fsyncSync: (file) => void unsynced.delete(file),
    renameSync: (from, to) => {
      if (unsynced.size > 0) throw new Error(`${from} is renamed before all of it is synced`);
      real.renameSync(from, to);
    },
  };
}

/**
 * Repeats `body`, each time with `operationsMore` more operations that work, until it succeeds. Returns the
 * number of failures.
 */
export async function untilItWorks(
  body: () => Promise<unknown>,
  afterFailure: (thrown: unknown) => unknown,
  operationsMore = 1,
): Promise<number> {
  for (let failures = 0; ; failures++) {
    disk.operations = 0;
    unsynced.clear(); // forget the files of the failed attempt
    disk.failAt = operationsMore * failures + 1;
    const thrown = await body().then(
      () => undefined,
      (error: unknown) => error,
    );
    disk.failAt = Number.POSITIVE_INFINITY;
    if (thrown === undefined) return failures;
    await afterFailure(thrown);
  }
}

function failing<A extends unknown[], R>(operation: (...values: A) => R): (...values: A) => R {
  return (...values) => {
    if (values[1] === "r") return operation(...values); // a full disk can still be read
    disk.operations++;
    if (disk.killed ? disk.operations >= disk.failAt : disk.operations === disk.failAt) {
      throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    }
    return operation(...values);
  };
}
