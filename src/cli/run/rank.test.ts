import { expect, it } from "vitest";
import { rankDevice, rankThreads, refuseFitOfRanks } from "./rank.ts";

// biome-ignore format: columns line up
it.each([
  ["the rank on its machine picks the card", { localRank: 2, localCount: 4 }, undefined,  4, "cuda:2"],
  ["whichever card the options name",        { localRank: 2, localCount: 4 }, "cuda:0",   4, "cuda:2"],
  ["fewer ranks than cards",                 { localRank: 1, localCount: 2 }, undefined,  8, "cuda:1"],
  ["a task that sees its own card alone",    { localRank: 3, localCount: 4 }, undefined,  1, "cuda:0"],
  ["no card",                                { localRank: 1, localCount: 2 }, undefined,  0, "cpu"],
  ["a card that is asked for and missing",   { localRank: 1, localCount: 2 }, "cuda:0",   0, "cuda:0"],
  ["the CPU, although there are cards",      { localRank: 1, localCount: 2 }, "cpu",      4, "cpu"],
] as const)("device of a rank: %s", (_, place, asked, cards, device) => {
  expect(rankDevice(place, asked, cards)).toBe(device);
});

it("refuses more ranks than cards", () => {
  expect(() => rankDevice({ localRank: 3, localCount: 4 }, undefined, 2)).toThrow("4 ranks, but 2 GPUs");
});

it("shares the cores out among the ranks of a machine, whatever OMP_NUM_THREADS says", () => {
  const env = { OMP_NUM_THREADS: "1" };
  expect(rankThreads({ localRank: 0, localCount: 4 }, env, 32)).toBe(8);
  expect(rankThreads({ localRank: 0, localCount: 4 }, env, 2)).toBe(1);
  expect(rankThreads({ localRank: 0, localCount: 4 }, { SLURM_CPUS_PER_TASK: "6" }, 32)).toBe(6);
  expect(rankThreads({ localRank: 0, localCount: 4 }, { SLURM_CPUS_PER_TASK: "64" }, 32)).toBe(32);
  const task = { SLURM_CPUS_PER_TASK: "16", LORAFIT_LAUNCHER: "lorafit and Slurm" }; // one task, four ranks of ours
  expect(rankThreads({ localRank: 0, localCount: 4 }, task, 32)).toBe(4);
});

it("refuses to find the longest sample in one of several ranks, and names the plan that does", () => {
  expect(() => refuseFitOfRanks({ count: 4, launcher: "torchrun" })).toThrow(
    expect.objectContaining({
      message: "lorafit fit measures one process; torchrun has started 4 ranks.",
      fix: expect.stringContaining("plan --gpus 4 --solve max-length"),
    }),
  );
  expect(() => refuseFitOfRanks({ count: 1, launcher: "Slurm" })).not.toThrow();
  expect(() => refuseFitOfRanks(undefined)).not.toThrow();
});
