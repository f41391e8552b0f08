/** Ranks that differ in what they start, and an event loop that turns while a collective is under way. */
import { empty, zeros } from "../../src/torch/create.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { agree } from "../../src/torch/peers/agreement.ts";
import type { OpenPeers } from "../../src/torch/peers/open.ts";

const SCENARIOS = {
  async shape(peers: OpenPeers): Promise<void> {
    using x = zeros([peers.rank === 1 ? 3 : 2]);
    peers.sum(x).wait();
  },
  async dtype(peers: OpenPeers): Promise<void> {
    const dtype: DType = peers.rank === 1 ? "int32" : "float32";
    using x = zeros([2], { dtype });
    await peers.sum(x).arrival();
  },
  async name(peers: OpenPeers): Promise<void> {
    using x = zeros([2]);
    (peers.rank === 1 ? peers.broadcast(x, 0) : peers.sum(x)).wait();
  },
  async facts(peers: OpenPeers): Promise<void> {
    await agree(peers, { version: "0.1.0", policy: { rank: peers.rank === 1 ? 8 : 16 } });
  },
  /** Rank 1 starts its part only once rank 0's event loop has turned many times during the collective. */
  async turns(peers: OpenPeers): Promise<{ turns: number; most: number }> {
    using x = empty([100_000]).fill_(peers.rank);
    let turns = 0;
    if (peers.rank === 0) {
      using pending = peers.sum(x);
      let arrived = false;
      const arrival = pending.arrival().then(() => {
        arrived = true;
      });
      while (turns < 50 && !arrived) {
        await new Promise((resolve) => setImmediate(resolve));
        turns++;
      }
      await peers.tell("turns", turns);
      await arrival;
    } else {
      await peers.tell("turns", 0);
      peers.sum(x).wait();
    }
    return { turns, most: await peers.most(peers.rank === 1 ? Number.POSITIVE_INFINITY : 3) };
  },
} as const;

export type Scenario = keyof typeof SCENARIOS;

export function rank(peers: OpenPeers, { scenario }: { scenario: Scenario }): Promise<unknown> {
  return SCENARIOS[scenario](peers);
}
