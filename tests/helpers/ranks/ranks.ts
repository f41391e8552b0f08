/**
 * Starts real processes that train together over loopback, on the TypeScript sources.
 *
 * A body is a module that exports an async function `rank(peers, args)`. It may import anything, and must lie
 * beside the test, named *.rank.ts. Its result must be JSON. In the test:
 *
 *   const body = new URL("./sums.rank.ts", import.meta.url);
 *   const results = await runRanks<number[]>(2, body, { args: { elements: 5 } });
 *
 * `results` has each rank's result, by rank. If a rank fails, runRanks throws an error with all output.
 * Tests of failures use startRanks: it gives the processes, to kill or stop, and how each one ended.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { OpenPeers, PeersOptions } from "../../../src/torch/peers/open.ts";

// biome-ignore lint/suspicious/noExplicitAny: each body knows its own arguments
export type RankBody = (peers: OpenPeers, args: any) => Promise<unknown>;

/** Written by a rank at its end. */
export interface RankReport {
  result?: unknown;
  error?: { name: string; message: string; rank?: number | undefined; host?: string | undefined };
}

export interface RankEnd extends RankReport {
  rank: number;
  /** Exit code; null if a signal ended the process. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** Milliseconds from the start to this rank's end. */
  endMs: number;
}

export interface RankOptions {
  args?: unknown;
  /** Variables added to the environment. */
  env?: Record<string, string>;
  peers?: PeersOptions;
  /** All ranks are killed after this time. Default: 4 minutes, for a busy machine. */
  timeoutMs?: number;
  /** Ranks that are told of but not started. */
  absent?: readonly number[];
}

export interface RunningRanks extends AsyncDisposable {
  /** Processes by rank; undefined if absent. */
  readonly children: readonly (ChildProcess | undefined)[];
  /** Resolves when a rank has printed this text; rejects if it ends before. */
  said(rank: number, text: string): Promise<void>;
  /** How each started rank has ended, once all have. */
  readonly ends: Promise<RankEnd[]>;
  /** How one rank has ended, once it has. */
  end(rank: number): Promise<RankEnd>;
}

/** Runs a body in `count` processes and returns their results by rank. Throws if one fails. */
export async function runRanks<T>(
  count: number,
  body: URL | string,
  options: RankOptions = {},
): Promise<T[]> {
  await using running = await startRanks(count, body, options);
  const ends = await running.ends;
  if (ends.every(({ code, error }) => code === 0 && !error)) return ends.map(({ result }) => result as T);
  throw new Error(ends.map(describeEnd).join("\n"));
}

function describeEnd({ rank, code, signal, stdout, stderr }: RankEnd): string {
  return `rank ${rank} ended with ${signal ?? code}\n${stdout}\n${stderr}`;
}

/** Starts `count` processes. Disposing kills those that still run. */
export async function startRanks(
  count: number,
  body: URL | string,
  { args, env, peers, timeoutMs = 240_000, absent = [] }: RankOptions = {},
): Promise<RunningRanks> {
  const folder = mkdtempSync(join(tmpdir(), "lorafit-ranks-"));
  const listening = createServer().listen(0, "127.0.0.1");
  await once(listening, "listening");
  const { port } = listening.address() as { port: number };
  // biome-ignore lint/suspicious/noExplicitAny: Node has no public way to hand over a listening socket
  const listenFd: number = (listening as any)._handle.fd;
  const startMs = performance.now();
  const bodyUrl = typeof body === "string" ? pathToFileURL(body).href : body.href;
  const started = Array.from({ length: count }, (_, rank) => {
    if (absent.includes(rank)) return undefined;
    const report = join(folder, `${rank}.json`);
    const child = spawn(
      process.execPath,
      [
        "--import",
        new URL("./typescript.mjs", import.meta.url).href,
        fileURLToPath(new URL("./main.ts", import.meta.url)),
      ],
      {
        stdio: ["ignore", "pipe", "pipe", ...(rank === 0 ? [listenFd] : [])],
        env: {
          ...process.env,
          ...{ LORAFIT_CHECK_COLLECTIVES: "1", OMP_NUM_THREADS: "1" },
          ...{ RANK: `${rank}`, WORLD_SIZE: `${count}`, LOCAL_RANK: `${rank}`, LOCAL_WORLD_SIZE: `${count}` },
          ...{
            MASTER_ADDR: "127.0.0.1",
            MASTER_PORT: `${port}`,
            ...(rank === 0 && { LORAFIT_STORE_FD: "3" }),
          },
          ...{ TEST_RANKS: JSON.stringify({ body: bodyUrl, args, peers }), TEST_REPORT: report },
          ...env,
        },
      },
    );
    return { child, watched: watch(child, rank, report, startMs) };
  });
  listening.close(); // rank 0 has the socket
  const timer = setTimeout(() => killAll(), timeoutMs);
  const killAll = (): void => {
    for (const each of started) each?.child.kill("SIGKILL");
  };
  const ends = Promise.all(started.flatMap((each) => (each ? [each.watched.end] : []))).finally(() =>
    clearTimeout(timer),
  );
  return {
    children: started.map((each) => each?.child),
    said: (rank, text) => started[rank]!.watched.said(text),
    ends,
    end: (rank) => started[rank]!.watched.end,
    async [Symbol.asyncDispose]() {
      killAll();
      await ends;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Collects a process's output, and how it ends. */
function watch(
  child: ChildProcess,
  rank: number,
  report: string,
  startMs: number,
): { end: Promise<RankEnd>; said: (text: string) => Promise<void> } {
  const output = { stdout: "", stderr: "" };
  const waiting: { text: string; resolve: () => void; reject: (error: Error) => void }[] = [];
  const look = (): void => {
    for (const { text, resolve } of waiting) if (output.stdout.includes(text)) resolve();
  };
  for (const stream of ["stdout", "stderr"] as const)
    child[stream]!.setEncoding("utf8").on("data", (chunk: string) => {
      output[stream] += chunk;
      look();
    });
  const end = once(child, "close").then(([code, signal]): RankEnd => {
    for (const { text, reject } of waiting)
      reject(new Error(`rank ${rank} ended before it said "${text}":\n${output.stdout}\n${output.stderr}`));
    const written = existsSync(report) ? (JSON.parse(readFileSync(report, "utf8")) as RankReport) : {};
    return { ...written, ...output, rank, code, signal, endMs: performance.now() - startMs };
  });
  const said = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      waiting.push({ text, resolve, reject });
      look();
    });
  return { end, said };
}
