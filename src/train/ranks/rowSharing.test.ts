import { expect, it } from "vitest";
import { ALONE, plannedPeers } from "../../torch/peers/peers.ts";
import { trainOptions } from "../options/options.ts";
import { checkRowSharing, counts, sharersOf, workersOf } from "./rowSharing.ts";

const optionsWith = (given: { sequence_parallel?: number; exact_sum?: boolean }) =>
  trainOptions({ model: "model", data: "data.jsonl", ...given });

it("shares rows among all ranks, or not at all", () => {
  const [first, second] = [0, 1].map((rank) => {
    return { peers: plannedPeers(rank, 2), inputs: { options: optionsWith({ sequence_parallel: 2 }) } };
  });
  expect([sharersOf(first!)?.rank, sharersOf(second!)?.rank]).toEqual([0, 1]);
  expect(workersOf(second!)).toEqual({ rank: 0, count: 1 });
  expect([counts(first!), counts(second!)]).toEqual([true, false]);
  const apart = { peers: plannedPeers(1, 2), inputs: { options: optionsWith({}) } };
  expect(sharersOf(apart)).toBeUndefined();
  expect([workersOf(apart), counts(apart)]).toEqual([apart.peers, true]);
});

it("refuses a number that is not that of the ranks, heads that it does not divide, and exact sums", () => {
  const check =
    (count: number, given: Parameters<typeof optionsWith>[0], kvHeads = 8) =>
    () =>
      checkRowSharing(count === 1 ? ALONE : plannedPeers(1, count), optionsWith(given), { kvHeads });
  expect(check(1, { sequence_parallel: 2 })).toThrow("--sequence-parallel 2 was given to one process.");
  expect(check(4, { sequence_parallel: 2 })).toThrow("--sequence-parallel 2 was given to 4 ranks.");
  expect(check(3, { sequence_parallel: 3 })).toThrow("does not divide the model's 8 key/value heads");
  expect(check(2, { sequence_parallel: 2, exact_sum: true })).toThrow("--exact-sum");
  expect(check(2, { sequence_parallel: 2 })).not.toThrow();
  expect(check(4, { exact_sum: true })).not.toThrow();
});
