/** The processes that a bench measures: each does a step for a line that it is sent, and answers in a line of JSON. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface, type Interface } from "node:readline";
import { limitSpinning } from "../src/torch/libtorch.ts";

/** What a worker says of a step; memory beyond the weights. */
export interface StepReport {
  seconds: number;
  cpuSeconds: number;
  loss: number;
  gradientNorm: number;
  peakRssBytes: number;
  /** As its own allocator counts; undefined where that cannot be asked. */
  peakAllocatedBytes?: number;
}

export class Worker<Report extends object = StepReport> {
  readonly name: string;
  /** What it said first. */
  readonly facts: object;
  private readonly child: ChildProcess;
  private readonly lines: AsyncIterator<string>;
  private readonly reader: Interface;
  private readonly errors: LastError;

  private constructor({ child, reader, lines, errors }: Ends, facts: object) {
    this.child = child;
    this.reader = reader;
    this.lines = lines;
    this.errors = errors;
    this.facts = facts;
    this.name = (facts as { name: string }).name;
  }

  /** Starts the process and waits until it has its weights. Throws where it ends before. */
  static async start<Report extends object = StepReport>(
    [command, ...args]: readonly [string, ...string[]],
    environment: Record<string, string>,
  ): Promise<Worker<Report>> {
    const env = { ...process.env, ...environment };
    limitSpinning(env); // of a peer's threads as of ours
    const child = spawn(command, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    const errors = new LastError(child);
    const reader = createInterface({ input: child.stdout! });
    const lines = reader[Symbol.asyncIterator]();
    // of a worker that has ended, or never began, the missing answer is the error
    child.on("error", () => {});
    child.stdin!.on("error", () => {});
    try {
      const facts = (await nextLine(lines, command, errors)) as object;
      return new Worker({ child, reader, lines, errors }, facts);
    } catch (error) {
      child.stdin!.end();
      throw error;
    }
  }

  async step(): Promise<Report> {
    this.child.stdin!.write("step\n");
    return (await nextLine(this.lines, this.name, this.errors)) as Report;
  }

  stop(): void {
    this.child.stdin!.end();
    this.reader.close();
  }
}

/** What a worker is talked to by. */
interface Ends {
  child: ChildProcess;
  reader: Interface;
  lines: AsyncIterator<string>;
  errors: LastError;
}

/** What a process says goes on to our own stderr; the last error among it is kept. */
class LastError {
  private text: string | undefined;
  private readonly ended: Promise<unknown>;

  constructor({ stderr }: ChildProcess) {
    const lines = createInterface({ input: stderr! });
    this.ended = once(lines, "close");
    lines.on("line", (line) => {
      console.error(line);
      if (/^[\w.]*(Error|Exception)\b.*: /.test(line)) this.text = line;
    });
  }

  /** Of a process that has ended. */
  async said(): Promise<string | undefined> {
    await this.ended;
    return this.text;
  }
}

async function nextLine(lines: AsyncIterator<string>, name: string, errors: LastError): Promise<unknown> {
  const { value, done } = await lines.next();
  if (done) throw new Error((await errors.said()) ?? `${name} ended before it answered`);
  return JSON.parse(value);
}

/** The middle one, or the lower of the two. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)]!;
}
