/**
 * Ranks that meet in one process. A step blocks in its collectives, so ranks cannot take turns within one: a
 * rank that comes to a collective before the others stops there, and runs again from its start once they have
 * been there too. Each run must begin anew, and do the same.
 */

import { cat } from "../../src/torch/create.ts";
import type { Peers, Pending } from "../../src/torch/peers/peers.ts";
import { checkBroadcast, checkExchange, checkGather, checkSum } from "../../src/torch/peers/peers.ts";
import { keep, scope, type Tensor } from "../../src/torch/tensor.ts";

type Kind = "sum" | "gather" | "exchange" | "broadcast";

/** One collective: what each rank brought to it. */
interface Meeting {
  description: string;
  given: Map<number, Tensor>;
}

/** Thrown where a rank has to wait for others. */
class NotYet extends Error {}

/**
 * Runs `body` as each of `count` ranks, until all have come to its end; returns what they returned, by rank,
 * and the collectives that they met in. `body` is run many times.
 */
export function together<T>(
  count: number,
  body: (peers: Peers) => T,
): { results: T[]; collectives: string[] } {
  const meetings: Meeting[] = [];
  const results = new Map<number, T>();
  const came = Array.from({ length: count }, () => 0);
  while (results.size < count) {
    let moved = false;
    for (let rank = 0; rank < count; rank++) {
      if (results.has(rank)) continue;
      const before = came[rank]!;
      try {
        results.set(rank, body(meetingPeers(rank, count, meetings, came)));
        moved = true;
      } catch (error) {
        if (!(error instanceof NotYet)) throw error;
        moved ||= came[rank]! > before;
      }
    }
    if (!moved) throw new Error(`ranks wait for one another: they came to ${came} collectives`);
  }
  const unmet = meetings.find(({ given }) => given.size < count);
  if (unmet) throw new Error(`only ranks ${[...unmet.given.keys()]} came to: ${unmet.description}`);
  for (const { given } of meetings) for (const tensor of given.values()) tensor.dispose();
  return {
    results: Array.from({ length: count }, (_, rank) => results.get(rank)!),
    collectives: meetings.map(({ description }) => description),
  };
}

function meetingPeers(rank: number, count: number, meetings: Meeting[], came: number[]): Peers {
  let next = 0;
  const meet = (kind: Kind, from: Tensor, into: Tensor, result: (given: Tensor[]) => Tensor): Pending => {
    const index = next++;
    const description = `${kind} ${from.dtype} [${from.shape}]`;
    meetings[index] ??= { description, given: new Map() };
    const { given, description: others } = meetings[index];
    if (description !== others)
      throw new Error(`rank ${rank} starts ${description} as collective ${index}; others started ${others}`);
    if (!given.has(rank)) given.set(rank, keep(scope(() => from.clone())));
    came[rank] = Math.max(came[rank]!, index + 1);
    if (given.size < count) throw new NotYet();
    const parts = Array.from({ length: count }, (_, each) => given.get(each)!);
    const answer = keep(scope(() => result(parts)));
    scope(() => void into.fill_(Number.NaN)); // until somebody waits
    let isDone = false;
    const wait = (): void => {
      if (isDone) return;
      isDone = true;
      scope(() => void into.view([-1]).copy_(answer.view([-1])));
      answer.dispose();
    };
    return { wait, isDone: true, arrival: () => Promise.resolve(wait()), [Symbol.dispose]: wait };
  };
  const partOf = (x: Tensor, part: number): Tensor => x.view([count, -1]).select(0, part);
  return {
    rank,
    count,
    sum(x) {
      checkSum(x);
      return meet("sum", x, x, (given) => given.reduce((sum, each) => sum.add(each)).clone());
    },
    gather(part, into) {
      checkGather(count, part, into);
      return meet("gather", part, into, (given) => cat(given.map((each) => each.view([-1]))));
    },
    exchange(from, into) {
      checkExchange(count, from, into);
      return meet("exchange", from, into, (given) => cat(given.map((each) => partOf(each, rank))));
    },
    broadcast(x, from) {
      checkBroadcast(count, x, from);
      return meet("broadcast", x, x, (given) => given[from]!.clone());
    },
    most: () => refuse("most"),
    tell: () => refuse("tell"),
    barrier: () => refuse("barrier"),
  };
}

function refuse(what: string): never {
  throw new Error(`a step may not wait for the store, as ${what} does`);
}
