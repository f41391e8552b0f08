/** Opens the group of ranks that train together: torch.distributed's c10d over Gloo, and NCCL for cards. */
import { hostname } from "node:os";
import { messageOf, plural, UserError } from "../../errors.ts";
import { type CardDevice, type Device, deviceCode, isCard } from "../dtypes.ts";
import { handleOf } from "../handle.ts";
import { type Handle, native } from "../native.ts";
import type { Tensor } from "../tensor.ts";
import { isLocal, LOOPBACK, ownAddress } from "./address.ts";
import { lossOf } from "./lost.ts";
import {
  checkBroadcast,
  checkExchange,
  checkGather,
  checkSum,
  type Json,
  type Peers,
  type Pending,
} from "./peers.ts";
import type { PlaceOfRank } from "./place.ts";
import { Words } from "./words.ts";

export interface PeersOptions {
  /** The card of this rank, for collectives by NCCL. Tensors on the CPU always go by Gloo. */
  device?: Device | undefined;
  /**
   * Milliseconds that a rank may do nothing, neither compute nor turn its event loop, before it counts as
   * stuck. The longest such time so far is added.
   */
  rankTimeoutMs?: number | undefined;
  /** Milliseconds within which all ranks must come. */
  openTimeoutMs?: number | undefined;
  /**
   * Compares each collective among all ranks before it starts. For tests and for finding faults: it takes the
   * time of several messages. Default: whether LORAFIT_CHECK_COLLECTIVES is 1.
   */
  checks?: boolean | undefined;
}

/** The group of a process that a launcher has started. Dispose it at the end, after the last collective. */
export interface OpenPeers extends Peers, AsyncDisposable {
  /** Aborts with a LostPeersError when another rank is gone, stuck or has failed. */
  readonly lost: AbortSignal;
  /**
   * Tells all ranks that this rank fails, and why. Call it when an error ends the run, before disposing: the
   * others then name this rank and the error's message.
   */
  fail(error: unknown): Promise<void>;
}

/** Threads of Gloo, each for one collective at a time. */
const GLOO_THREADS = 2;
/** Milliseconds for this rank's words to reach the others. */
const FAREWELL_MS = 5000;
/** Milliseconds for the watch to find out why the store answers no more. */
const GRACE_MS = 20_000;
const TURN_MS = 1000;
/** Numbers of native/group.h's Kind. */
const KINDS = { sum: 0, gather: 1, exchange: 2, broadcast: 3 } as const;

/**
 * Joins the other ranks. Returns when all have come. Throws UserError if some do not, or if the store can't
 * be reached.
 */
export async function openPeers(
  place: PlaceOfRank,
  {
    rankTimeoutMs = 60_000,
    openTimeoutMs = 300_000,
    device,
    checks = process.env.LORAFIT_CHECK_COLLECTIVES === "1",
  }: PeersOptions = {},
): Promise<OpenPeers> {
  const store = await openStore(place, openTimeoutMs);
  const loss = new AbortController();
  await native.startWatch(store, hostname(), rankTimeoutMs, (words) => loss.abort(lossOf(words)));
  const turns = setInterval(() => native.countTurn(), TURN_MS).unref(); // waiting for late ranks is no hang
  try {
    await orLost(meet(store, place, openTimeoutMs), { store, loss });
    const group = await orLost(joinProcesses(store, place, openTimeoutMs, checks), { store, loss });
    if (device && isCard(device)) await orLost(joinCards(group, store, device), { store, loss });
    return new Group({ store, group, place, loss, rankTimeoutMs, turns });
  } catch (error) {
    const first = loss.signal.aborted ? loss.signal.reason : error; // before this rank's own failure is told
    native.failWatch(store, messageOf(error).split("\n")[0]!);
    await native.lostWords(store, FAREWELL_MS);
    await native.leaveWatch(store, 0);
    native.closeStore(store);
    clearInterval(turns);
    throw first;
  }
}

/** Opens or reaches the store. If all ranks are on this machine, it listens on the loopback address only. */
async function openStore(place: PlaceOfRank, timeoutMs: number): Promise<Handle> {
  const serves = place.rank === 0 && !place.launcherServes;
  const host = isLocal(place) && !place.launcherServes ? LOOPBACK : place.host;
  const { port, rank, count, attempt, listenFd = -1 } = place;
  const prefix = `lorafit/${attempt}`;
  const where = `${host}:${port}`;
  const late = new UserError(`Something else than the ranks' store answers at ${where}.`, {
    fix: "Choose another port, by MASTER_PORT or the launcher's option, or end the other program.",
  });
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late), timeoutMs + 5000);
  });
  try {
    const opened = native.openStore(host, port, serves, listenFd, timeoutMs, rank, count, prefix);
    return await Promise.race([opened, deadline]);
  } catch (error) {
    if (error === late) throw error;
    const fix = serves
      ? "Choose another port, by MASTER_PORT or the launcher's option."
      : "Check that rank 0 runs, that its machine can be reached, and that the firewall lets the port through.";
    const does = serves ? "can't serve the ranks' store" : "can't reach the ranks' store";
    throw new UserError(`Rank ${rank} ${does} at ${where}: ${messageOf(error)}`, { fix, cause: error });
  } finally {
    clearTimeout(timer);
  }
}

/** Connects all ranks by Gloo. */
async function joinProcesses(
  store: Handle,
  place: PlaceOfRank,
  timeoutMs: number,
  checks: boolean,
): Promise<Handle> {
  const address = await ownAddress(place);
  try {
    return await native.openGroup(store, address, GLOO_THREADS, timeoutMs, checks);
  } catch (error) {
    if (lossOf(error)) throw error;
    throw new UserError(`Ranks can't be joined by the network interface ${address}: ${messageOf(error)}`, {
      fix: "Name a network interface of this machine: export GLOO_SOCKET_IFNAME=eth0 (ip addr lists them)",
      cause: error,
    });
  }
}

/** Adds NCCL to the group. */
async function joinCards(group: Handle, store: Handle, device: CardDevice): Promise<void> {
  try {
    await native.openCards(group, store, deviceCode(device), process.env.LORAFIT_NCCL ?? "");
  } catch (error) {
    if (lossOf(error)) throw error;
    throw new UserError(`The cards of the ranks can't be joined: ${messageOf(error)}`, {
      fix: "Set NCCL_DEBUG=INFO to see what NCCL does; LORAFIT_NCCL=FILE names another libnccl.so.2.",
      cause: error,
    });
  }
}

/** Waits until all ranks have come; names those that have not. */
async function meet(store: Handle, { rank, count }: PlaceOfRank, timeoutMs: number): Promise<void> {
  const keys = Array.from({ length: count }, (_, each) => `come/${each}`);
  await native.storeSet(store, keys[rank]!, new TextEncoder().encode(hostname()));
  try {
    await native.storeGet(store, keys, "the start", timeoutMs);
  } catch (error) {
    const come = await Promise.all(keys.map((key) => native.storeHas(store, key)));
    const absent = keys.flatMap((_, each) => (come[each] ? [] : [each]));
    if (absent.length === 0) throw error;
    const names = `${absent.length === 1 ? "rank" : "ranks"} ${absent.slice(0, 8).join(", ")}`;
    throw new UserError(
      `Waited ${Math.round(timeoutMs / 1000)} s for ${plural(count, "rank")}, but ${names}${absent.length > 8 ? ", ..." : ""} did not come.`,
      {
        fix: "Read what the missing ranks printed. All must be started with the same host, port and count.",
        cause: error,
      },
    );
  }
}

interface Opened {
  store: Handle;
  group: Handle;
  place: PlaceOfRank;
  loss: AbortController;
  rankTimeoutMs: number;
  /** Counts turns of the event loop for the watch. */
  turns: NodeJS.Timeout;
}

class Group implements OpenPeers {
  readonly rank: number;
  readonly count: number;
  readonly lost: AbortSignal;
  readonly #opened: Opened;
  readonly #words: Words;
  #left = false;
  readonly #onExit = (code: number): void => {
    if (!this.#left) native.failNow(this.#opened.store, `it has ended with exit code ${code}`);
  };

  constructor(opened: Opened) {
    this.#opened = opened;
    this.rank = opened.place.rank;
    this.count = opened.place.count;
    this.lost = opened.loss.signal;
    this.#words = new Words(opened.store, this, (promise) => orLost(promise, opened));
    process.once("exit", this.#onExit);
  }

  sum(x: Tensor): Pending {
    checkSum(x);
    return this.#start(KINDS.sum, x);
  }

  gather(part: Tensor, into: Tensor): Pending {
    checkGather(this.count, part, into);
    return this.#start(KINDS.gather, into, part);
  }

  exchange(from: Tensor, into: Tensor): Pending {
    checkExchange(this.count, from, into);
    return this.#start(KINDS.exchange, into, from);
  }

  broadcast(x: Tensor, from: number): Pending {
    checkBroadcast(this.count, x, from);
    return this.#start(KINDS.broadcast, x, undefined, from);
  }

  async most(value: number): Promise<number> {
    const all = await this.tell("most", String(value)); // JSON has no NaN and no Infinity
    return Math.max(...all.map(Number));
  }

  tell(key: string, value: Json): Promise<Json[]> {
    return this.#words.tell(key, value);
  }

  async barrier(): Promise<void> {
    await this.tell("barrier", null);
  }

  async fail(error: unknown): Promise<void> {
    if (this.#left || this.lost.aborted) return;
    native.failWatch(this.#opened.store, messageOf(error).split("\n")[0]!);
    await native.lostWords(this.#opened.store, FAREWELL_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#left) return;
    this.#left = true;
    process.off("exit", this.#onExit);
    const { store, group, rankTimeoutMs } = this.#opened;
    await native.leaveWatch(store, this.lost.aborted ? 0 : rankTimeoutMs);
    native.closeGroup(group);
    native.closeStore(store);
    clearInterval(this.#opened.turns);
  }

  #start(kind: number, to: Tensor, from?: Tensor, root = 0): Pending {
    if (this.lost.aborted) throw this.lost.reason;
    const started = translated(() =>
      native.startCollective(this.#opened.group, kind, handleOf(to), handleOf(from), root),
    );
    let id = started;
    const wait = (): void => {
      if (id === 0) return;
      const waited = id;
      id = 0;
      translated(() => native.waitCollective(waited));
    };
    return {
      wait,
      get isDone() {
        return id === 0 || native.isCollectiveDone(id);
      },
      arrival: () => native.collectiveArrival(started).catch(rethrow),
      [Symbol.dispose]() {
        try {
          wait();
        } catch {} // the code that needs the result has failed already
      },
    };
  }
}

/** Settles like the promise, or rejects with the loss of the group. */
function orLost<T>(promise: Promise<T>, { store, loss }: Pick<Opened, "store" | "loss">): Promise<T> {
  const lost = loss.signal;
  const named = promise.catch(async (error) => {
    const told = lossOf(error);
    if (told?.rank !== undefined || !told) throw told ?? error;
    throw lossOf(await native.lostWords(store, GRACE_MS)) ?? told; // the watch finds out which rank is gone
  });
  return new Promise<T>((resolve, reject) => {
    const give = (): void => reject(lost.reason);
    if (lost.aborted) give();
    lost.addEventListener("abort", give, { once: true });
    named.then(resolve, reject).finally(() => lost.removeEventListener("abort", give));
  });
}

function translated<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    return rethrow(error);
  }
}

/** Throws the loss that an error of the engine tells of. This rank's own faults stay as they are. */
function rethrow(error: unknown): never {
  throw lossOf(error) ?? error;
}
