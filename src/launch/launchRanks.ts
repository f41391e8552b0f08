/**
 * Starts ranks on this machine, and ends them together: when one fails, when the user stops them, or when
 * this process is killed (watchLauncher.ts). Needs no libtorch.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
import type { PlaceOfNode } from "../torch/peers/node.ts";
import { EXIT_INTERRUPTED, EXIT_PEER_LOST, SAME_SIGNAL_MS, SIGNALS } from "./exitCodes.ts";
import { RankLog, show } from "./rankLogs.ts";
import { globalRank, rankVariables } from "./rankVariables.ts";
import { openStoreSocket, type StoreSocket } from "./storeSocket.ts";

export interface LaunchRequest {
  /** Words that start a rank: the program, its script, and its arguments. */
  command: readonly [string, ...string[]];
  localCount: number;
  node: PlaceOfNode | undefined;
  /** Folder of the ranks' logs. */
  logs: string;
  environment: NodeJS.ProcessEnv;
  /** Further variables of rank 0, whose stderr is shown on the terminal. */
  shownVariables: Record<string, string>;
  /** Where this process's stderr goes: the terminal. */
  terminal: { write(text: string): unknown };
}

/** How the ranks have ended: the exit code of all, and the rank that failed first. */
export interface RanksEnd {
  code: number;
  failed?: { rank: number; how: string; log: string; error: string | undefined; isShown: boolean };
}

interface Rank {
  rank: number;
  child: ChildProcess;
  log: RankLog;
  isShown: boolean;
}

interface Ended {
  rank: Rank;
  code: number;
  signal: NodeJS.Signals | null;
}

const PATIENCE = {
  /**
   * Milliseconds that the others have to end with an error of their own when a rank has failed. They may need
   * 30 s to notice, and rank 0 then saves.
   */
  ownEndMs: 60_000,
  /** Milliseconds from SIGTERM to SIGKILL; torchrun's. A rank may save a checkpoint meanwhile. */
  graceMs: 30_000,
  /** Milliseconds that the others have to end when rank 0 has finished the run. */
  finishMs: 60_000,
};

/** Starts the ranks and waits for their end. Throws UserError if the port is taken or a log can't be made. */
export async function launchRanks(
  request: LaunchRequest,
  patience: typeof PATIENCE = PATIENCE,
): Promise<RanksEnd> {
  const { node } = request;
  const isFirst = (node?.index ?? 0) === 0;
  const socket = isFirst ? await openStoreSocket(node?.port) : undefined;
  const ranks: Rank[] = [];
  try {
    for (let localRank = 0; localRank < request.localCount; localRank++)
      ranks.push(startRank(request, localRank, socket));
  } catch (thrown) {
    for (const { child } of ranks) child.kill("SIGKILL");
    throw thrown;
  } finally {
    socket?.close();
  }
  return await untilEnded(ranks, patience);
}

function startRank(request: LaunchRequest, localRank: number, socket: StoreSocket | undefined): Rank {
  const { command, environment, shownVariables, terminal, localCount, node, logs } = request;
  const [program, ...words] = command;
  const port = socket?.port ?? node?.port ?? 0;
  const place = { localRank, localCount, node, port };
  const rank = globalRank(place);
  const log = new RankLog(logs, rank);
  log.write(`--- ${new Date().toISOString()}  ${[program, ...words].join(" ")}\n`);
  const isShown = rank === 0;
  const child = spawn(program, words, {
    env: { ...environment, ...rankVariables(place), ...(isShown && shownVariables) },
    // the fourth is a pipe that closes when this process ends, the fifth the store's socket
    stdio: [
      "ignore",
      isShown ? "inherit" : log.fd,
      isShown ? "pipe" : log.fd,
      "pipe",
      ...(rank === 0 && socket ? [socket.fd] : []),
    ],
    detached: true, // Ctrl-C reaches this process alone, which passes it on once
  });
  if (child.stderr) show(child.stderr, terminal, log);
  child.stdio[3]?.on("error", () => {}); // a rank that dies closes it
  return { rank, child, log, isShown };
}

/** Waits for all ranks, and ends the others when one has failed. */
async function untilEnded(
  ranks: readonly Rank[],
  { ownEndMs, graceMs, finishMs }: typeof PATIENCE,
): Promise<RanksEnd> {
  const ended: Ended[] = [];
  const running = new Set(ranks);
  const timers: NodeJS.Timeout[] = [];
  const killAll = (signal: NodeJS.Signals): void => {
    for (const { child } of running) child.kill(signal);
  };
  const endAll = (afterMs: number): void => {
    if (timers.length > 0) return;
    timers.push(setTimeout(killAll, afterMs, "SIGTERM"));
    timers.push(setTimeout(killAll, afterMs + graceMs, "SIGKILL"));
  };
  const stop = passSignals(killAll);
  await Promise.all(
    ranks.map(async (rank) => {
      const end = await endOf(rank);
      running.delete(rank);
      ended.push(end);
      if (end.code !== 0) endAll(stop.isAsked() ? finishMs : ownEndMs);
      else if (rank.rank === 0) endAll(finishMs);
    }),
  );
  for (const timer of timers) clearTimeout(timer);
  stop.end();
  const result = resultOf(ended, stop.isAsked());
  for (const { log } of ranks) log.close();
  return result;
}

async function endOf(rank: Rank): Promise<Ended> {
  const { child, log } = rank;
  try {
    const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
    return { rank, code: code ?? 128 + constants.signals[signal ?? "SIGKILL"], signal };
  } catch (thrown) {
    log.write(`error: the rank can't be started: ${String(thrown)}\n`);
    return { rank, code: 1, signal: null };
  }
}

/** Passes the first signal on as Ctrl-C, which stops a run gracefully. A second one kills the ranks. */
function passSignals(killAll: (signal: NodeJS.Signals) => void): { isAsked(): boolean; end(): void } {
  let askedAtMs: number | undefined;
  const hear = (): void => {
    if (askedAtMs === undefined) {
      askedAtMs = performance.now();
      killAll("SIGINT");
    } else if (performance.now() - askedAtMs >= SAME_SIGNAL_MS) killAll("SIGKILL");
  };
  for (const signal of SIGNALS) process.on(signal, hear);
  return {
    isAsked: () => askedAtMs !== undefined,
    end: () => {
      for (const signal of SIGNALS) process.off(signal, hear);
    },
  };
}

/**
 * Returns the exit code of all: 0, that of an interruption, or that of the rank that failed first. A rank
 * that only followed another is not the first, although it may end before.
 */
function resultOf(ended: readonly Ended[], isInterrupted: boolean): RanksEnd {
  const failures = ended.filter(({ code }) => code !== 0);
  if (failures.length === 0) return { code: 0 };
  const isOwn = ({ code, signal }: Ended): boolean =>
    code !== EXIT_PEER_LOST && !(isInterrupted && (signal !== null || code === EXIT_INTERRUPTED));
  const first = failures.find(isOwn) ?? failures[0]!;
  if (isInterrupted && !isOwn(first)) return { code: EXIT_INTERRUPTED };
  const { rank, code, signal } = first;
  const how = signal ? `was ended by ${signal}` : `ended with exit code ${code}`;
  const { log, isShown } = rank;
  return { code, failed: { rank: rank.rank, how, log: log.path, error: log.lastError(), isShown } };
}
