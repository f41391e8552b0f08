/** Ranks of which one is killed, hangs, fails or starts something else, by scenario. */
import { empty, zeros } from "../../src/torch/create.ts";
import type { OpenPeers } from "../../src/torch/peers/open.ts";
import { scope } from "../../src/torch/tensor.ts";

export type Scenario = keyof typeof SCENARIOS;

export const SCENARIOS = {
  /** Sums until somebody is killed. */
  async sums(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    for (let turn = 0; ; turn++) {
      peers.sum(x).wait();
      if (turn === 3) console.log("summing");
    }
  },
  /** The same, without blocking. */
  async arrivals(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    for (let turn = 0; ; turn++) {
      using pending = peers.sum(x);
      await pending.arrival();
      if (turn === 3) console.log("summing");
    }
  },
  /** All but the last rank wait in the store. */
  async tells(peers: OpenPeers): Promise<void> {
    console.log("summing");
    if (peers.rank === peers.count - 1) await new Promise((resolve) => setTimeout(resolve, 1e8));
    await peers.barrier();
  },
  /** The last rank neither computes nor turns its event loop. */
  async hang(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    peers.sum(x).wait();
    console.log("summing");
    if (peers.rank === peers.count - 1) for (;;) Math.random();
    peers.sum(x).wait();
  },
  /** The last rank computes for much longer than the limit, then takes part. */
  async compute(peers: OpenPeers, { computeMs }: { computeMs: number }): Promise<void> {
    using x = zeros([1000]);
    if (peers.rank === peers.count - 1) {
      const end = performance.now() + computeMs;
      while (performance.now() < end) scope(() => void empty([100]).fill_(1));
    }
    peers.sum(x).wait();
    await peers.barrier();
  },
  /** The last rank fails by itself. */
  async fails(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    if (peers.rank === peers.count - 1) throw new Error("no card is left");
    peers.sum(x).wait();
  },
  /** The last rank ends early, as if all were well. */
  async leaves(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    if (peers.rank === peers.count - 1) return;
    peers.sum(x).wait();
  },
  /** Rank 1 leaves in order; the others have nothing to wait for, until the group is lost. */
  async lateDeath(peers: OpenPeers): Promise<void> {
    await peers.barrier();
    if (peers.rank === 1) return;
    console.log("summing");
    const alive = setInterval(() => {}, 1000);
    await new Promise((_, reject) => {
      peers.lost.addEventListener("abort", () => reject(peers.lost.reason));
    }).finally(() => clearInterval(alive));
  },
  /** Ranks wait for different things. */
  async differ(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    if (peers.rank === 0) peers.sum(x).wait();
    else await peers.tell("steps", 5);
  },
  /** The last rank exits without a word. */
  async exits(peers: OpenPeers): Promise<void> {
    using x = zeros([1000]);
    if (peers.rank === peers.count - 1) process.exit(7);
    peers.sum(x).wait();
  },
} as const;

export async function rank(
  peers: OpenPeers,
  { scenario, ...args }: { scenario: Scenario; computeMs: number },
): Promise<void> {
  await SCENARIOS[scenario](peers, args);
}
