/**
 * Ranks of a shared base in one process. A gather finds the other ranks' shares at once, because shares never
 * change; what ranks tell each other is met in the event loop.
 */
import type { Model } from "../../src/models/weights.ts";
import { cat } from "../../src/torch/create.ts";
import { checkGather, type Json, type Peers, plannedPeers } from "../../src/torch/peers/peers.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";

export interface SharedRank {
  model: Model;
  peers: Peers;
  /** Parts that were gathered, in order. */
  gathered: (string | number)[];
}

/** Loads a model as each of `count` ranks. */
export function sharedRanks(count: number, load: (peers: Peers) => Model): SharedRank[] {
  const ranks: SharedRank[] = [];
  const tell = meeting(count);
  for (let rank = 0; rank < count; rank++) {
    const gathered: SharedRank["gathered"] = [];
    const peers: Peers = {
      ...plannedPeers(rank, count),
      gather(part, into) {
        checkGather(count, part, into);
        const name = [...ranks[rank]!.model.shared!.shares].find(([, { own }]) => own === part)![0];
        gathered.push(name);
        const parts = ranks.map(({ model }) => model.shared!.shares.get(name)!.own);
        const wait = (): void => copyAll(into, parts);
        return { wait, isDone: true, arrival: () => Promise.resolve(), [Symbol.dispose]: () => {} };
      },
      tell: (key, value) => tell(rank, key, value),
    };
    ranks.push({ model: load(peers), peers, gathered });
  }
  return ranks;
}

function copyAll(into: Tensor, parts: readonly Tensor[]): void {
  scope(() => {
    into.copy_(cat(parts));
  });
}

interface Told {
  values: Map<number, Json>;
  all: Promise<Json[]>;
  end: (all: Json[]) => void;
}

/** Returns a function with which ranks tell each other values under keys, each in the same order. */
function meeting(count: number): (rank: number, key: string, value: Json) => Promise<Json[]> {
  const meetings = new Map<string, Told>();
  return (rank, key, value) => {
    const told = meetings.get(key) ?? newTold();
    meetings.set(key, told);
    if (told.values.has(rank)) throw new Error(`rank ${rank} tells ${key} twice`);
    told.values.set(rank, value);
    if (told.values.size === count)
      told.end(Array.from({ length: count }, (_, each) => told.values.get(each)!));
    return told.all;
  };
}

function newTold(): Told {
  let end: Told["end"] = () => {};
  const all = new Promise<Json[]>((resolve) => {
    end = resolve;
  });
  return { values: new Map(), all, end };
}
