/** A run folder whose logs are read once, and then only where they have grown. */
import { createHash } from "node:crypto";
import { existsSync, lstatSync, readFileSync, type Stats } from "node:fs";
import { basename, join } from "node:path";
import { parse } from "yaml";
import type { LoggedFact } from "../train/facts/runFact.ts";
import { LOCK_FILE, type LockHolder } from "../train/folder/runLock.ts";
import {
  ADAPTER_FOLDER,
  EVALS_FILE,
  type EvalRecord,
  FACTS_FILE,
  OPTIONS_FILE,
  STEPS_FILE,
  type StepRecord,
} from "../train/folder/runLog.ts";
import { addEvals, addFacts, type EvalDigest, type FactDigest, noEvals, noFacts } from "./factDigest.ts";
import type { FoundFolder } from "./findRuns.ts";
import { holderIn } from "./lockIn.ts";
import {
  CHUNK_BYTES,
  parseLine,
  parseLines,
  readAppended,
  readLastLines,
  readSampledLines,
} from "./logTail.ts";
import type { RunState, RunSummary } from "./runView.ts";
import { addSteps, emptyDigest, lossParts, recentSpeed, type StepDigest } from "./stepDigest.ts";

/** All that is known of a run's logs; plain data. */
export interface RunDigest {
  steps: StepDigest;
  facts: FactDigest;
  evals: EvalDigest;
  /** Time, size and number of each log's file when it was read to its end. */
  marks: Partial<Record<LogName, string>>;
}

type LogName = typeof STEPS_FILE | typeof EVALS_FILE | typeof FACTS_FILE;

/** A log that is longer is shown by a sample of its lines until it is read. */
const MOST_AT_ONCE_BYTES = CHUNK_BYTES / 2;
/** The sample of its lines, and the bytes of its end. */
const SAMPLED_LINES = 20;
const LAST_BYTES = 2 ** 12;
/** A run on another machine counts as ended when its logs have not changed for so long. */
const SILENCE_MS = 3_600_000;
/** The longest configuration that people write has a few thousand bytes. */
const MOST_OPTION_BYTES = 2 ** 18;

export class KnownRun {
  readonly id: string;
  readonly path: string;
  readonly folder: string;
  digest: RunDigest;
  /** Number of changes of the summary so far. */
  revision = 0;
  /** Shown instead of the digest's steps while a long log is not read yet. */
  #sampled: StepDigest | undefined;
  /** Bytes after the last whole line, when the log was read to its end. */
  #brokenBytes = 0;
  #holder: LockHolder | undefined;
  #updatedAtMs = 0;
  #state: RunState = "crashed";

  constructor({ path, folder }: Pick<FoundFolder, "path" | "folder">, digest?: RunDigest) {
    this.id = idOf(path);
    this.path = path;
    this.folder = folder;
    this.digest = digest ?? { steps: emptyDigest(), facts: noFacts(), evals: noEvals(), marks: {} };
  }

  /** The process that trains; undefined if none does. */
  get holder(): LockHolder | undefined {
    return this.#state === "running" ? this.#holder : undefined;
  }

  /** Time of the last change in the logs. */
  get updatedAtMs(): number {
    return this.#updatedAtMs;
  }

  get isRunning(): boolean {
    return this.#state === "running";
  }

  /** Whether a part of a long log is still to be read, by readOn(). */
  get isPartial(): boolean {
    return this.#sampled !== undefined;
  }

  /** Reads what is new in the logs, except long parts. Returns whether the summary has changed. */
  update(): boolean {
    const before = this.#mark();
    const times = [
      this.#readChanged(FACTS_FILE, () => this.#readFacts()),
      this.#readChanged(EVALS_FILE, () => this.#readEvals()),
      this.#readChanged(STEPS_FILE, () => this.#readSteps()),
    ];
    this.#updatedAtMs = Math.max(...times);
    this.#holder = holderIn(this.folder);
    this.#state = this.#stateNow();
    const hasChanged = this.#mark() !== before;
    if (hasChanged) this.revision += 1;
    return hasChanged;
  }

  /** Reads the next piece of a log. Returns whether that was the last one. */
  readOn(): boolean {
    const { cursor } = this.digest.steps;
    const { bytes, next, isReset, leftBytes } = readAppended(this.#file(STEPS_FILE), cursor);
    if (isReset) this.digest.steps = emptyDigest();
    addSteps(this.digest.steps, parseLines<StepRecord>(bytes));
    this.digest.steps.cursor = next;
    if (leftBytes > MOST_AT_ONCE_BYTES && next !== cursor) return false;
    this.#brokenBytes = leftBytes;
    if (this.isPartial) this.revision += 1;
    this.#sampled = undefined;
    return true;
  }

  summary(): RunSummary {
    const { facts, evals, steps: read } = this.digest;
    const steps = this.#sampled ?? read;
    const speed = recentSpeed(steps);
    const options = facts.options;
    const { memory } = options;
    const limitBytes = facts.limitBytes ?? (typeof memory === "number" ? memory : undefined);
    const plannedPeakBytes = facts.plannedPeakBytes ?? (steps.plannedPeakBytes || undefined);
    const totalSteps =
      facts.totalSteps ?? (typeof options.max_steps === "number" ? options.max_steps : undefined);
    const leftMs = speed && totalSteps && this.isRunning && (totalSteps - steps.step) * speed.stepMs;
    const startedAtMs = facts.startedAtMs || this.#timeOf(OPTIONS_FILE) || this.#timeOf(LOCK_FILE);
    return {
      ...{ id: this.id, path: this.path, name: basename(this.path === "." ? this.folder : this.path) },
      state: this.#state,
      ...(this.#state === "failed" && facts.end?.message !== undefined && { error: facts.end.message }),
      step: steps.step,
      ...(totalSteps !== undefined && { totalSteps }),
      startedAtMs,
      updatedAtMs: this.#updatedAtMs || startedAtMs,
      ...(leftMs !== undefined && leftMs !== false && leftMs >= 0 && { leftMs: leftMs || 0 }),
      options,
      lossSparkline: lossParts(steps),
      ...(steps.steps > 0 && { lastLoss: steps.loss }),
      ...(evals.last && { lastEval: evals.last }),
      ...(evals.best && { bestEval: evals.best }),
      ...(plannedPeakBytes !== undefined && { plannedPeakBytes }),
      ...(steps.peakBytes > 0 && { peakBytes: steps.peakBytes }),
      ...(limitBytes !== undefined && { limitBytes }),
      ...(speed && { tokensPerSecond: speed.tokensPerSecond }),
      ...{ tokens: steps.tokens, elapsedMs: steps.elapsedMs, stepDowns: facts.stepDowns },
      ...(this.#sampled && { isPartial: true }),
    };
  }

  /** Reads a log if its file is not as it was. Returns the time of its last change; 0 without a file. */
  #readChanged(name: LogName, read: () => void): number {
    const { marks } = this.digest;
    const status = statusOf(this.#file(name));
    const mark = status && [status.mtimeMs, status.size, status.ino].join();
    if (mark === undefined || marks[name] !== mark) {
      read();
      const isAtEnd = name !== STEPS_FILE || !this.isPartial;
      if (mark !== undefined && isAtEnd) marks[name] = mark;
      else delete marks[name];
    }
    return status?.mtimeMs ?? 0;
  }

  #readFacts(): void {
    const file = this.#file(FACTS_FILE);
    const read = readAppended(file, this.digest.facts.cursor, Number.MAX_SAFE_INTEGER);
    if (read.isReset) this.digest.facts = noFacts();
    addFacts(this.digest.facts, parseLines<LoggedFact>(read.bytes));
    this.digest.facts.cursor = read.next;
    const isKnown = Object.keys(this.digest.facts.options).length > 0;
    if (!isKnown && this.digest.facts.cursor === "") this.digest.facts.options = configurationIn(this.folder);
  }

  #readEvals(): void {
    const read = readAppended(this.#file(EVALS_FILE), this.digest.evals.cursor, Number.MAX_SAFE_INTEGER);
    if (read.isReset) this.digest.evals = noEvals();
    addEvals(this.digest.evals, parseLines<EvalRecord>(read.bytes));
    this.digest.evals.cursor = read.next;
  }

  /** Reads new steps. A long part is left to readOn(), which reads it piece by piece. */
  #readSteps(): void {
    const file = this.#file(STEPS_FILE);
    const { isReset, leftBytes } = readAppended(file, this.digest.steps.cursor, 0);
    if (isReset) {
      this.digest.steps = emptyDigest();
      this.#brokenBytes = 0;
    }
    if (leftBytes - this.#brokenBytes > MOST_AT_ONCE_BYTES) this.#sampled ??= sampledDigest(file);
    else if (leftBytes > 0) this.readOn();
    else this.#sampled = undefined;
  }

  #stateNow(): RunState {
    const { facts, steps } = this.digest;
    const holder = this.#holder;
    const isSilent = Date.now() - (this.#updatedAtMs || this.#timeOf(LOCK_FILE)) > SILENCE_MS;
    if (holder?.mayRun && (holder.isHere || !isSilent)) return "running";
    if (facts.end) return facts.end.ended;
    if (facts.cursor !== "") return "crashed";
    if (existsSync(this.#file(ADAPTER_FOLDER))) return "finished"; // a run of an older version
    const isSaved = steps.steps > 0 && existsSync(this.#file(`checkpoint-${steps.step}`));
    return isSaved && !holder ? "interrupted" : "crashed";
  }

  /** Changes if the summary has changed. */
  #mark(): string {
    const { steps, evals, facts } = this.digest;
    return [steps.cursor, evals.cursor, facts.cursor, this.#state, this.isPartial].join();
  }

  #timeOf(name: string): number {
    return statusOf(this.#file(name))?.mtimeMs ?? 0;
  }

  #file(name: string): string {
    return join(this.folder, name);
  }
}

/** Reads the options of a run from its configuration; none if the file is missing, too long, or no YAML. */
export function configurationIn(folder: string): Record<string, unknown> {
  const file = join(folder, OPTIONS_FILE);
  try {
    const status = lstatSync(file);
    if (!status.isFile() || status.size > MOST_OPTION_BYTES) return {};
    const options: unknown = parse(readFileSync(file, "utf8"), { maxAliasCount: 0 });
    return typeof options === "object" && options !== null && !Array.isArray(options)
      ? (options as Record<string, unknown>)
      : {};
  } catch {
    return {};
  }
}

/** Returns the id of a run or a sweep. */
export function idOf(path: string): string {
  return createHash("sha256").update(path).digest("base64url").slice(0, 16);
}

/** Returns the status of a file; undefined if it is missing or out of reach. */
function statusOf(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

/** Sums up a few lines of a long log and its end: the course of the loss, the speed, a peak. */
function sampledDigest(file: string): StepDigest {
  const digest = emptyDigest();
  const last = readLastLines(file, LAST_BYTES).flatMap((line) => parseLine<StepRecord>(line) ?? []);
  addSteps(digest, last);
  const losses = readSampledLines(file, SAMPLED_LINES).map(lossIn);
  digest.losses = {
    width: 1,
    sums: losses.map((loss) => loss ?? 0),
    counts: losses.map((loss) => (loss === undefined ? 0 : 1)),
  };
  return digest;
}

/** Finds the loss in a line without parsing all of it, as a first look at many runs needs it. */
function lossIn(line: string): number | undefined {
  const loss = /"loss":(-?[\d.eE+-]+)/.exec(line)?.[1];
  return loss === undefined ? undefined : Number(loss) || undefined;
}
