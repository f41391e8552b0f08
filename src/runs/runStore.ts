/**
 * All runs and sweeps below a folder. The first look reads the ends of long logs and a sample of their lines;
 * the rest is read in the background. While somebody watches, changes are looked for twice a second. Polling
 * works on every file system; notices of changes do not come from network folders.
 */
import { randomBytes } from "node:crypto";
import { relative, sep } from "node:path";
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import { type FoundFolder, RunFinder } from "./findRuns.ts";
import { idOf, KnownRun } from "./knownRun.ts";
import { KnownSweep } from "./knownSweep.ts";
import type { RunSummary } from "./runView.ts";
import { storeDigests, storedDigests } from "./storedDigests.ts";
import type { SweepSummary } from "./sweepView.ts";

/** Milliseconds between two looks while somebody watches. */
const LOOK_MS = 500;
/** Milliseconds of reading between two turns of the event loop. */
const TURN_MS = 20;
/** Milliseconds before long logs are read: the first list is answered, and the page loaded, by then. */
const REST_MS = 1000;
/** Milliseconds between two times that what was read is kept. */
const STORE_MS = 15_000;

export interface RunChanges {
  changed: RunSummary[];
  /** Ids of runs whose folders are gone. */
  removed: string[];
  /** Set if any sweep has changed: all of them. */
  sweeps?: SweepSummary[];
  /** Pass it on to get later changes. */
  version: number;
}

interface Entry {
  run: KnownRun;
  /** Time of the folder at the last look. */
  changedAtMs: number;
  /** The run's revision at the last look, and the version in which it was seen. */
  revision: number;
  version: number;
}

export class RunStore {
  readonly root: string;
  /** Tells versions of this store from those of a store before, in another process. */
  readonly mark = randomBytes(6).toString("hex");
  readonly #finder: RunFinder;
  readonly #keeps: boolean;
  #entries = new Map<string, Entry>();
  #sweeps = new Map<string, KnownSweep>();
  #removed: { id: string; version: number }[] = [];
  #version = 0;
  #sweepVersion = 0;
  #looking: Promise<void> | undefined;
  #reading: Promise<void> | undefined;
  #isClosed = false;
  #storedAtMs = Date.now();
  /** Digests of an earlier start that no run has claimed yet. */
  #stored: ReturnType<typeof storedDigests>;
  readonly #watchers = new Set<() => void>();
  #timer: NodeJS.Timeout | undefined;

  /** root: absolute, without symbolic links. keeps: whether digests are kept in the user's cache folder. */
  constructor(root: string, { keeps = true } = {}) {
    this.root = root;
    this.#finder = new RunFinder(root);
    this.#keeps = keeps;
    this.#stored = keeps ? storedDigests(root) : new Map();
  }

  /** Looks for changes, or waits for the look that is under way. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  /** Returns all that has changed since a version; everything since version 0. */
  changesSince(version: number): RunChanges {
    const newer = [...this.#entries.values()].filter((entry) => entry.version > version);
    return {
      changed: newer.map(({ run }) => this.summaryOf(run)).sort((a, b) => b.startedAtMs - a.startedAtMs),
      removed: this.#removed.filter((gone) => gone.version > version).map(({ id }) => id),
      ...(this.#sweepVersion > version && { sweeps: this.sweepSummaries() }),
      version: this.#version,
    };
  }

  run(id: string): KnownRun | undefined {
    return this.#entries.get(id)?.run;
  }

  sweep(id: string): KnownSweep | undefined {
    return this.#sweeps.get(id);
  }

  /** Returns a run's summary with the sweep that it belongs to. */
  summaryOf(run: KnownRun): RunSummary {
    const summary = run.summary();
    for (const sweep of this.#sweeps.values()) {
      const trial = sweep.trialOf(run.folder);
      if (trial !== undefined) return { ...summary, sweep: { id: sweep.id, trial } };
    }
    return summary;
  }

  sweepSummaries(): SweepSummary[] {
    const isRunning = (folder: string): boolean => this.runIn(folder)?.isRunning ?? false;
    return [...this.#sweeps.values()]
      .map((sweep) => sweep.summary(isRunning))
      .sort((a, b) => b.updatedAtMs - a.updatedAtMs);
  }

  /** Returns the run of a folder. */
  runIn(folder: string): KnownRun | undefined {
    return this.run(idOf(pathBelow(this.root, folder)));
  }

  /** Calls back after each look that found changes, until the returned function is called. */
  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange);
    this.#schedule();
    return () => {
      this.#watchers.delete(onChange);
    };
  }

  /** Ends all reading, and keeps what was read. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#looking?.catch(() => {});
    await this.#reading?.catch(() => {});
    this.#store();
  }

  #schedule(): void {
    if (this.#isClosed || this.#timer || this.#watchers.size === 0) return;
    this.#timer = setTimeout(async () => {
      await this.look().catch(() => {}); // the next look tries again
      this.#timer = undefined;
      this.#schedule();
    }, LOOK_MS);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    const before = this.#version;
    const found = await this.#finder.find();
    const runs = found.filter(({ kind }) => kind === "run");
    await this.#takeRuns(runs);
    this.#takeSweeps(found.filter(({ kind }) => kind === "sweep"));
    if (this.#partial().length > 0)
      this.#reading ??= this.#readOn().finally(() => {
        this.#reading = undefined;
      });
    if (this.#version > before) for (const onChange of this.#watchers) onChange();
  }

  async #takeRuns(found: readonly FoundFolder[]): Promise<void> {
    const entries = new Map<string, Entry>();
    let turnAtMs = performance.now();
    for (const place of found) {
      const known = this.#known(place);
      entries.set(known.run.id, known);
      if (performance.now() - turnAtMs < TURN_MS) continue;
      await setImmediate();
      turnAtMs = performance.now();
    }
    for (const id of this.#entries.keys()) {
      if (entries.has(id)) continue;
      this.#version += 1;
      this.#removed.push({ id, version: this.#version });
    }
    this.#removed = this.#removed.filter(({ id }) => !entries.has(id));
    this.#entries = entries;
  }

  /** Returns the entry of a folder, after a look at it if it may have changed. */
  #known(place: FoundFolder): Entry {
    const known = this.#entries.get(idOf(place.path));
    const entry = known ?? this.#begun(place);
    const mayHaveChanged = entry.run.isRunning || entry.changedAtMs !== place.changedAtMs;
    if (mayHaveChanged) entry.run.update();
    entry.changedAtMs = place.changedAtMs;
    this.#note(entry);
    return entry;
  }

  /** Gives the entry a new version if its summary has changed, by a look here or by someone else's. */
  #note(entry: Entry): void {
    if (entry.revision === entry.run.revision) return;
    entry.revision = entry.run.revision;
    entry.version = ++this.#version;
  }

  #begun(place: FoundFolder): Entry {
    const digest = this.#stored.get(place.path);
    this.#stored.delete(place.path);
    return { run: new KnownRun(place, digest), changedAtMs: 0, revision: -1, version: 0 };
  }

  #takeSweeps(found: readonly FoundFolder[]): void {
    const before = [...this.#sweeps.keys()].join();
    const sweeps = found.map((place) => this.#sweeps.get(idOf(place.path)) ?? new KnownSweep(place));
    const hasChanged = sweeps.map((sweep) => sweep.update()).includes(true); // each is read
    this.#sweeps = new Map(sweeps.map((sweep) => [sweep.id, sweep]));
    if (hasChanged || [...this.#sweeps.keys()].join() !== before) this.#sweepVersion = ++this.#version;
  }

  #partial(): Entry[] {
    return [...this.#entries.values()].filter(({ run }) => run.isPartial);
  }

  /** Reads long logs to their ends, the latest run's first. */
  async #readOn(): Promise<void> {
    await sleep(REST_MS, undefined, { ref: false });
    const isOpen = (): boolean => !this.#isClosed;
    const partial = this.#partial().sort((a, b) => b.run.updatedAtMs - a.run.updatedAtMs);
    for (const entry of partial) {
      if (!isOpen()) return;
      while (isOpen() && !entry.run.readOn()) await setImmediate();
      this.#note(entry);
      await setImmediate();
      if (Date.now() - this.#storedAtMs > STORE_MS) this.#store();
    }
    this.#store();
    for (const onChange of this.#watchers) onChange();
  }

  #store(): void {
    if (!this.#keeps) return;
    this.#storedAtMs = Date.now();
    const known = [...this.#entries.values()].map(({ run }) => [run.path, run.digest] as const);
    if (known.length > 0) storeDigests(this.root, new Map(known));
  }
}

/** Returns a path below the root as FoundFolder has it. */
function pathBelow(root: string, folder: string): string {
  return relative(root, folder).replaceAll(sep, "/") || ".";
}
