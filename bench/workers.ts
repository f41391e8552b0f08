/** The processes that a bench measures: each does a step for a line that it is sent, and answers in a line of JSON. */
import { type ChildProcess, spawn } from "node:child_process";
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

  private constructor(child: ChildProcess, reader: Interface, lines: AsyncIterator<string>, facts: object) {
    this.child = child;
    this.reader = reader;
    this.lines = lines;
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
    const child = spawn(command, args, { env, stdio: ["pipe", "pipe", "inherit"] });
    const reader = createInterface({ input: child.stdout! });
    const lines = reader[Symbol.asyncIterator]();
    // of a worker that has ended, or never began, the missing answer is the error
    child.on("error", () => {});
    child.stdin!.on("error", () => {});
    return new Worker(child, reader, lines, (await nextLine(lines, command)) as object);
  }

  async step(): Promise<Report> {
    this.child.stdin!.write("step\n");
    return (await nextLine(this.lines, this.name)) as Report;
  }

  stop(): void {
    this.child.stdin!.end();
    this.reader.close();
  }
}

async function nextLine(lines: AsyncIterator<string>, name: string): Promise<unknown> {
  const { value, done } = await lines.next();
  if (done) throw new Error(`${name} ended before it answered`);
  return JSON.parse(value);
}

/** The middle one, or the lower of the two. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)]!;
}
