/** Measures the links between ranks: each pair by itself, the ring of all, and the difference of clocks. */
import { messageOf } from "../../errors.ts";
import { zeros } from "../../torch/create.ts";
import { isCard } from "../../torch/dtypes.ts";
import { type OpenPeers, openPeers } from "../../torch/peers/open.ts";
import type { Peers } from "../../torch/peers/peers.ts";
import type { PlaceOfRank } from "../../torch/peers/place.ts";
import { type Device, keep, type Tensor } from "../../torch/tensor.ts";

/** A type and not an interface, because it is sent as JSON. */
export type Link = {
  from: number;
  to: number;
  /** Bytes a second; null if the link does not work. */
  bytesPerSecond: number | null;
  /** Milliseconds of one small message; null if the link does not work. */
  latencyMs: number | null;
  error: string | null;
};

const BYTES = { cpu: 16 * 2 ** 20, card: 64 * 2 ** 20 };
const ROUNDS = 4;
/** More ranks than these are measured along their ring only: pairs grow with the square. */
const MOST_IN_PAIRS = 8;
/** Stores of pairs begin at this attempt: each pair has keys of its own. */
const FIRST_PAIR = 1_000_000;

/** Returns the pairs of ranks to measure. */
export function pairsOf(count: number): [number, number][] {
  if (count > MOST_IN_PAIRS) return Array.from({ length: count }, (_, rank) => [rank, (rank + 1) % count]);
  return Array.from({ length: count }, (_, one) =>
    Array.from({ length: count - one - 1 }, (_, more): [number, number] => [one, one + 1 + more]),
  ).flat();
}

/** Measures every pair, one after the other, in both directions. All ranks call it and get all links. */
export async function measureLinks(
  peers: Peers,
  place: PlaceOfRank,
  {
    hosts,
    device,
    timeoutMs,
    onPair,
  }: {
    hosts: readonly string[];
    device: Device;
    timeoutMs: number;
    onPair: (done: number, total: number) => void;
  },
): Promise<Link[]> {
  const links: Link[] = [];
  const pairs = pairsOf(place.count);
  for (const [index, pair] of pairs.entries()) {
    const at = pair.indexOf(place.rank);
    const isHere = hosts[pair[0]] === hosts[pair[1]];
    const own = at < 0 ? [] : await measurePair({ place, pair, index, isHere, device, timeoutMs });
    const told = (await peers.tell(`links of ${pair.join(" and ")}`, own)) as Link[][];
    links.push(...(told[pair[0]] ?? []), ...(told[pair[1]] ?? []));
    onPair(index + 1, pairs.length);
  }
  return links;
}

interface Pair {
  place: PlaceOfRank;
  pair: readonly [number, number];
  index: number;
  isHere: boolean;
  device: Device;
  timeoutMs: number;
}

/** Measures a pair in a group of its own. Returns the link by which this rank receives. */
async function measurePair({ place, pair, index, isHere, device, timeoutMs }: Pair): Promise<Link[]> {
  const at = pair.indexOf(place.rank);
  const ends = { from: pair[1 - at]!, to: place.rank };
  let group: OpenPeers | undefined;
  try {
    const own = { rank: at, count: 2, localRank: isHere ? at : 0, localCount: isHere ? 2 : 1 };
    const { listenFd: _, ...rest } = place;
    const attempt = FIRST_PAIR * (place.attempt + 1) + index;
    group = await openPeers(
      { ...rest, ...own, launcherServes: true, attempt },
      { device, openTimeoutMs: timeoutMs, rankTimeoutMs: timeoutMs },
    );
    const seconds = await secondsOf(group, device, isCard(device) ? BYTES.card : BYTES.cpu);
    const latency = await secondsOf(group, device, 8);
    const bytes = isCard(device) ? BYTES.card : BYTES.cpu;
    return [{ ...ends, bytesPerSecond: bytes / seconds, latencyMs: latency * 1000, error: null }];
  } catch (thrown) {
    return [{ ...ends, bytesPerSecond: null, latencyMs: null, error: messageOf(thrown).split("\n")[0]! }];
  } finally {
    await closed(group);
  }
}

/** Closes a group, whose links may be broken. */
async function closed(group: OpenPeers | undefined): Promise<void> {
  try {
    await group?.[Symbol.asyncDispose]();
  } catch {} // what was wrong with it is known
}

/** Returns the shortest time in which this rank of two receives so many bytes from the other. */
async function secondsOf(group: Peers, device: Device, bytes: number): Promise<number> {
  const x = keep(zeros([bytes], { dtype: "uint8", device }));
  try {
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < ROUNDS; round++) {
      for (const from of [0, 1]) {
        await group.barrier();
        const seconds = await timed(() => group.broadcast(x, from).arrival());
        if (from !== group.rank && round > 0) best = Math.min(best, seconds); // the first opens connections
      }
    }
    return best;
  } finally {
    x.dispose();
  }
}

/** Returns the rate of a sum over all ranks: bytes a second that each rank sends, as a ring would. */
export async function measureRing(peers: Peers, device: Device): Promise<number> {
  const bytes = isCard(device) ? BYTES.card : BYTES.cpu;
  const x: Tensor = keep(zeros([bytes / 4], { dtype: "float32", device }));
  try {
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < ROUNDS; round++) {
      await peers.barrier();
      const seconds = await timed(() => peers.sum(x).arrival());
      if (round > 0) best = Math.min(best, seconds);
    }
    const slowest = await peers.most(best);
    return (2 * (peers.count - 1) * bytes) / peers.count / slowest;
  } finally {
    x.dispose();
  }
}

/** Returns how far each rank's clock is ahead of rank 0's, in milliseconds; the smallest of some looks. */
export async function measureClocks(peers: Peers): Promise<number[]> {
  const least = Array.from({ length: peers.count }, () => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    await peers.barrier();
    const clocks = (await peers.tell("clock", Date.now())) as number[];
    for (const [rank, clock] of clocks.entries()) {
      const ahead = clock - clocks[0]!;
      if (Math.abs(ahead) < Math.abs(least[rank]!)) least[rank] = ahead;
    }
  }
  return least;
}

async function timed(body: () => Promise<void>): Promise<number> {
  const startMs = performance.now();
  await body();
  return (performance.now() - startMs) / 1000;
}
