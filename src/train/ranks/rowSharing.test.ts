import { expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { Policy } from "../../step/policy.ts";
import { ALONE, plannedPeers } from "../../torch/peers/peers.ts";
import { trainOptions } from "../options/options.ts";
import { checkRowSharing, counts, refuseSharedBase, sharersOf, workersOf } from "./rowSharing.ts";

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

it("suggests only numbers that divide the heads", () => {
  const fixFor = (count: number, given: number): string | undefined => {
    try {
      checkRowSharing(plannedPeers(0, count), optionsWith({ sequence_parallel: given }), { kvHeads: 8 });
    } catch (thrown) {
      if (thrown instanceof UserError) return thrown.fix;
      throw thrown;
    }
    return undefined;
  };
  expect(fixFor(4, 2)).toContain("or pass --sequence-parallel 4.");
  for (const count of [3, 6, 12]) expect(fixFor(count, 2)).toContain("or pass --sequence-parallel 1.");
  expect(fixFor(4, 3)).toBe("Use one of 1, 2, 4, 8.");
});

it.each<[string, object]>([
  ["layers", { weights: { source: "shared" } }],
  ["embeddings", { embeddings: "shared" }],
  ["head", { head: "shared" }],
  ["vision tower", { vision: "shared" }],
])("refuses a policy that shares the %s while ranks share rows", (_, given) => {
  const policy = Policy.parse({ ...given, plora: "apart" });
  const refuse = (sequence_parallel: number) => () =>
    refuseSharedBase(policy, optionsWith({ sequence_parallel }));
  expect(refuse(2)).toThrow("The policy shares the base among ranks, and --sequence-parallel the rows");
  expect(refuse(1)).not.toThrow();
  const whole = Policy.parse({});
  expect(() => refuseSharedBase(whole, optionsWith({ sequence_parallel: 2 }))).not.toThrow();
});
