/**
 * A disk that can be full, or lost, from any of its operations on: `vi.mock("node:fs", async (original) => withFaults(await original()))`.
 * Nothing is really synced, for a test can't see it and waits long for it; instead, what is renamed must have been.
 */

/** From operation `failAt` on it refuses one operation (full), or all that follow (the process was killed). */
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

/** Books what is synced, and throws where something is renamed before all that was written is. */
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

/** Does it again and again, each time with so many operations more that work, until it succeeds; gives the number of failures. */
export async function untilItWorks(
  body: () => Promise<unknown>,
  afterFailure: (thrown: unknown) => unknown,
  operationsMore = 1,
): Promise<number> {
  for (let failures = 0; ; failures++) {
    disk.operations = 0;
    unsynced.clear(); // what a failure has left goes
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
    if (values[1] === "r") return operation(...values); // a full disk can be read
    disk.operations++;
    if (disk.killed ? disk.operations >= disk.failAt : disk.operations === disk.failAt) {
      throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    }
    return operation(...values);
  };
}
