/**
 * Records on their way to an MLflow server, in files of the output folder. What a server has not taken stays
 * there, however the run ends, and a run that continues knows which run of the server is its own.
 */
import { randomUUID } from "node:crypto";
import { existsSync, statSync, truncateSync } from "node:fs";
import { appendFile, open } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { cannotRead, cannotWrite } from "../../../checkpoint/faults.ts";
import { readJsonObject, writeFileWhole } from "../../../checkpoint/files/disk.ts";
import { MLFLOW_SPOOL_FILE, MLFLOW_STATE_FILE } from "../../folder/runLog.ts";
import { type Batch, type KeyValue, type Metric, MOST_METRICS, type RunStatus } from "./client.ts";

/** A line of the spool. */
export type SpoolRecord =
  | { metrics: Metric[] }
  | { params: KeyValue[]; tags: KeyValue[] }
  | { status: RunStatus; endMs?: number };

const State = z.object({
  /** Address of the server that has the run. */
  uri: z.string(),
  /** Name and start of the run, for the server to make it. */
  name: z.string(),
  startMs: z.number(),
  /** Tag that the server's run is found by, and whether the server was asked to make that run. */
  tag: z.string(),
  isAsked: z.boolean(),
  /** The server's run; absent until it is made. */
  runId: z.string().optional(),
  /** Bytes of the spool that the server has. */
  sentBytes: z.number(),
  /** The last steps that the server has. */
  sentSteps: z.object({ train: z.number(), eval: z.number() }),
});
type State = z.output<typeof State>;

/** The next records to send together, and the bytes of the spool that they take. */
export type Parcel = { bytes: number } & ({ batch: Batch } | { status: RunStatus; endMs?: number });

/** Most bytes of the spool that are read at a time: it bounds the memory that unsent records take. */
const READ_BYTES = 2 ** 18;
/** The spool is emptied when all of it is sent and it is larger. */
const KEPT_BYTES = 2 ** 16;

export class Spool {
  readonly state: State;
  /** Whether the folder had no spool before. */
  readonly isNew: boolean;
  readonly #path: string;
  readonly #statePath: string;
  /** The last steps in the spool or on the server. */
  #steps: State["sentSteps"];
  /** The append or the emptying that is going on. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(output: string, state: State, isNew: boolean) {
    this.#path = join(output, MLFLOW_SPOOL_FILE);
    this.#statePath = join(output, MLFLOW_STATE_FILE);
    this.state = state;
    this.isNew = isNew;
    this.#steps = { ...state.sentSteps };
  }

  /** Opens the spool of a folder. It is that of a run before, if the run continues. */
  static async open(output: string, run: Pick<State, "uri" | "name" | "startMs" | "runId">): Promise<Spool> {
    const asked = { tag: randomUUID(), isAsked: false };
    const known = readState(output);
    const fresh = { ...run, ...asked, sentBytes: 0, sentSteps: { train: 0, eval: 0 } };
    const spool = new Spool(output, known ? { ...known, ...otherServer(known, run) } : fresh, !known);
    if (spool.#size() < spool.state.sentBytes) spool.state.sentBytes = 0; // emptied, then killed
    spool.save();
    if (spool.unsentBytes > 0) await spool.#inTurn(() => appendFile(spool.#path, "\n")); // after a line that a crash has cut off
    let parcel = await spool.next();
    for (let at = spool.state.sentBytes; parcel; parcel = await spool.next(at)) {
      if ("batch" in parcel) for (const { key, step } of parcel.batch.metrics) spool.#note(key, step);
      at += parcel.bytes;
    }
    return spool;
  }

  /** Opens the spool that a run has left; undefined if it reported nothing to MLflow. */
  static async left(output: string, uri: string): Promise<Spool | undefined> {
    const known = readState(output);
    return known && (await Spool.open(output, { ...known, uri }));
  }

  /** Bytes that are not sent. */
  get unsentBytes(): number {
    return Math.max(0, this.#size() - this.state.sentBytes);
  }

  /** Whether a step's numbers are there already: a run that continues repeats steps, with equal numbers. */
  has(kind: "train" | "eval", step: number): boolean {
    return step <= this.#steps[kind];
  }

  async add(record: SpoolRecord): Promise<void> {
    if ("metrics" in record) for (const { key, step } of record.metrics) this.#note(key, step);
    await this.#inTurn(() => appendFile(this.#path, `${JSON.stringify(record)}\n`));
  }

  /** Returns what to send next; undefined if everything is sent. from: bytes before it. */
  async next(from = this.state.sentBytes): Promise<Parcel | undefined> {
    if (!existsSync(this.#path)) return undefined;
    const file = await open(this.#path).catch((cause) => {
      throw cannotRead(this.#path, cause);
    });
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(READ_BYTES), 0, READ_BYTES, from);
      return parcelOf(buffer.subarray(0, bytesRead));
    } finally {
      await file.close();
    }
  }

  /** Notes that a parcel has arrived. */
  async sent({ bytes, ...parcel }: Parcel): Promise<void> {
    const { state } = this;
    state.sentBytes += bytes;
    if ("batch" in parcel)
      for (const { key, step } of parcel.batch.metrics) {
        const kind = kindOf(key);
        state.sentSteps[kind] = Math.max(state.sentSteps[kind], step);
      }
    await this.#inTurn(async () => {
      if (state.sentBytes > KEPT_BYTES && state.sentBytes === this.#size()) {
        truncateSync(this.#path);
        state.sentBytes = 0;
      }
    });
    this.save();
  }

  save(): void {
    writeFileWhole(this.#statePath, `${JSON.stringify(this.state)}\n`);
  }

  #note(key: string, step: number): void {
    const kind = kindOf(key);
    this.#steps[kind] = Math.max(this.#steps[kind], step);
  }

  #size(): number {
    return statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0;
  }

  async #inTurn(body: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(body).catch((cause: unknown) => {
      throw cannotWrite(this.#path, cause);
    });
    this.#turn = turn.catch(() => {});
    await turn;
  }
}

function readState(output: string): State | undefined {
  const path = join(output, MLFLOW_STATE_FILE);
  return existsSync(path) ? State.safeParse(readJsonObject(path)).data : undefined;
}

/** On another server the run is made anew; it gets what the first one did not take. */
function otherServer(known: State, run: Pick<State, "uri" | "runId">): Partial<State> {
  return known.uri === run.uri ? {} : { uri: run.uri, runId: run.runId, isAsked: false };
}

function kindOf(key: string): "train" | "eval" {
  return key.startsWith("eval_") ? "eval" : "train";
}

/** Joins records of numbers to one call, within its limit. A line that a crash has cut off is passed over. */
function parcelOf(text: Buffer): Parcel | undefined {
  const metrics: Metric[] = [];
  const batch: Batch = { metrics, params: [], tags: [] };
  let bytes = 0;
  for (let end = text.indexOf(10); end >= 0; end = text.indexOf(10, bytes)) {
    const record = recordIn(text.subarray(bytes, end).toString("utf8"));
    if (record && !("metrics" in record)) {
      // alone: if the server refuses it, it takes no numbers with it
      const alone = "status" in record ? record : { batch: { metrics: [], ...record } };
      return metrics.length === 0 ? { bytes: end + 1, ...alone } : { bytes, batch };
    }
    const added = record?.metrics ?? [];
    if (metrics.length > 0 && metrics.length + added.length > MOST_METRICS) return { bytes, batch };
    metrics.push(...added);
    bytes = end + 1;
  }
  return bytes === 0 ? undefined : { bytes, batch };
}

function recordIn(line: string): SpoolRecord | undefined {
  try {
    return JSON.parse(line) as SpoolRecord;
  } catch {
    return undefined;
  }
}
