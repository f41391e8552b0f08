/**
 * Processes that a bench measures: each runs a step for a line that it receives and answers in a line of
 * JSON.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface, type Interface } from "node:readline";
import { limitSpinning } from "../src/torch/install/libtorch.ts";

const MOST_ANSWER_MS = 3_600_000;
const MOST_ENDING_MS = 10_000;

/** A worker's report of a step; memory beyond the weights. */
export interface StepReport {
  seconds: number;
  cpuSeconds: number;
  loss: number;
  gradientNorm: number;
  peakRssBytes: number;
  /** Bytes by its own allocator's count; undefined if the allocator cannot be asked. */
  peakAllocatedBytes?: number;
}

export class Worker<Report extends object = StepReport> {
  readonly name: string;
  /** First line of the worker. */
  readonly facts: object;
  private readonly ends: Ends;

  private constructor(ends: Ends, facts: object) {
    this.ends = ends;
    this.facts = facts;
    this.name = (facts as { name: string }).name;
  }

  /**
   * Starts the process and waits until it has its weights. Throws if it ends first or exceeds the time limit.
   */
  static async start<Report extends object = StepReport>(
    [command, ...args]: readonly [string, ...string[]],
    mostAnswerMs = MOST_ANSWER_MS,
  ): Promise<Worker<Report>> {
    const env = { ...process.env };
    limitSpinning(env); // of a peer's threads as of ours
    const child = spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    const errors = new LastError(child);
    const reader = createInterface({ input: child.stdout! });
    const ends = { child, reader, lines: reader[Symbol.asyncIterator](), errors, mostAnswerMs };
    // of a worker that has ended the missing answer is the error
    child.stdin!.on("error", () => {});
    try {
      return new Worker(ends, (await nextLine(ends, command)) as object);
    } catch (error) {
      await ended(child);
      throw error;
    }
  }

  /** Has the process do a step; task: its line of JSON, for a worker whose steps differ. */
  async step(task?: object): Promise<Report> {
    this.ends.child.stdin!.write(task ? `${JSON.stringify(task)}\n` : "step\n");
    return (await nextLine(this.ends, this.name)) as Report;
  }

  /** Has the process end, and waits until it has, so that the next one finds its memory free. */
  async stop(): Promise<void> {
    this.ends.reader.close();
    await ended(this.ends.child);
  }
}

/** A process that does not end by itself soon is killed. */
async function ended(child: ChildProcess): Promise<void> {
  child.stdin!.end();
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const timer = setTimeout(() => child.kill("SIGKILL"), MOST_ENDING_MS);
  await once(child, "exit");
  clearTimeout(timer);
}

/** Streams of a worker. */
interface Ends {
  child: ChildProcess;
  reader: Interface;
  lines: AsyncIterator<string>;
  errors: LastError;
  mostAnswerMs: number;
}

/** Passes a process's output on to our stderr and keeps its last error. */
class LastError {
  private text: string | undefined;
  private readonly ended: Promise<unknown>;

  constructor(child: ChildProcess) {
    const lines = createInterface({ input: child.stderr! });
    this.ended = once(lines, "close");
    child.on("error", ({ message }) => this.note(message)); // it never began
    child.on("exit", (_, signal) => signal && this.note(`it was ended by ${signal}`));
    lines.on("line", (line) => {
      console.error(line);
      if (/^[\w.]*(Error|Exception)\b.*: /.test(line)) this.text = line;
    });
  }

  /** Message to use if the process printed no error. */
  note(text: string): void {
    this.text ??= text;
  }

  /** Describes how a process ended. */
  async said(): Promise<string | undefined> {
    await this.ended;
    return this.text;
  }
}

async function nextLine({ child, lines, errors, mostAnswerMs }: Ends, name: string): Promise<unknown> {
  const timer = setTimeout(() => {
    errors.note(`no answer within ${mostAnswerMs / 1000} s`);
    child.kill("SIGKILL");
  }, mostAnswerMs);
  const { value, done } = await lines.next();
  clearTimeout(timer);
  if (done) throw new Error((await errors.said()) ?? `${name} ended before it answered`);
  return JSON.parse(value);
}

/** The middle one, or the lower of the two. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)]!;
}
