/**
 * Ranks that hold a share of the base each, as real processes: gradients are those of a process that holds
 * all of it, to the bit, and a rank needs the memory of its plan.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Bases } from "../../src/models/precision/bases.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { getThreads, setThreads } from "../../src/torch/device.ts";
import { ALONE } from "../../src/torch/peers/peers.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import { type Args, type Result, rank, type Work } from "./shared.rank.ts";

const BODY = new URL("./shared.rank.ts", import.meta.url);
const folder = join(mkdtempSync(join(tmpdir(), "shared-base-")), "tiny");
const threads = getThreads();
beforeAll(() => {
  setThreads(1); // as the ranks
  writeTinyCheckpoint(folder, { ...TINY, layers: 4, hidden: 128, ffn: 352, vocab: 512 });
});
afterAll(() => {
  setThreads(threads);
  rmSync(join(folder, ".."), { recursive: true });
});

const PARTS = { embeddings: "shared", head: "shared", vision: "shared" };
const SHARED = { ...PARTS, weights: { source: "shared" } };
/** Layers whose inputs are restored, so that they are visited more than once in the backward pass. */
const RESTORED = { ...SHARED, layers: [{ count: 1 }, { count: 3, boundary: "none" }] };
const HALF_RESTORED = { ...SHARED, layers: [{ count: 2 }, { count: 1, boundary: "none" }, { count: 1 }] };

const TEXT: Work = { samples: [{ textTokens: 60 }], seed: 1, policy: SHARED };
const PICTURES: Work = {
  samples: [{ textTokens: 30, images: 2 }, { textTokens: 9 }],
  seed: 2,
  policy: SHARED,
};

/** Runs the work in ranks, and all of it in one process that holds the whole base. */
async function compare(work: Work[][], more: Partial<Args> = {}): Promise<Result[]> {
  const args = { folder, dtype: "float32", ...more } as const;
  const ranks = await runRanks<Result>(work.length, BODY, { args: { ...args, work } });
  const resident = (policy: unknown): unknown => ({
    ...(policy as object),
    ...{ weights: { source: "resident" }, embeddings: "device", head: "device", vision: "device" },
  });
  const alone = work.flat().map(({ failsAt, failsAgain, leaner, policy, ...each }) => ({
    ...each,
    policy: resident(failsAt ? leaner : policy),
  }));
  const whole = await rank(ALONE, { ...args, work: [alone] });
  expect(ranks.flatMap(({ results }) => results)).toEqual(whole.results);
  for (const { leftBytes, leftTensors } of ranks)
    expect({ leftBytes, leftTensors }).toEqual({ leftBytes: 0, leftTensors: 0 });
  return ranks;
}

describe("gradients equal those of a process with the whole base", () => {
  const BASES: Record<string, { dtype: Args["dtype"]; bases: Bases }> = {
    float32: { dtype: "float32", bases: {} },
    bfloat16: { dtype: "bfloat16", bases: {} },
    int8: { dtype: "bfloat16", bases: { base: "int8", headBase: "int8", visionBase: "int8" } },
    NF4: { dtype: "bfloat16", bases: { base: "nf4", headBase: "int8", visionBase: "nf4" } },
    fp8: { dtype: "bfloat16", bases: { base: "fp8", visionBase: "fp8" } },
  };
  it.each(Object.entries(BASES))("in %s, on two ranks of which one has text alone", async (_, base) => {
    await compare([[TEXT], [PICTURES]], base);
  });

  it("on three ranks with different numbers of micro-batches, policies, and evaluations among them", async () => {
    await compare([
      [TEXT, { ...PICTURES, does: "evaluates" }, { ...TEXT, seed: 5, policy: HALF_RESTORED }],
      [{ ...PICTURES, policy: RESTORED }],
      [],
    ]);
  });

  it("where a rank runs out of memory at any point and repeats its micro-batch under a leaner policy", async () => {
    const allocations = [1, 2, 12, 200, 900];
    const failing = allocations.map((failsAt) => ({ ...PICTURES, failsAt, leaner: RESTORED }));
    const [first] = await compare([failing, [TEXT, { ...TEXT, seed: 7 }]]);
    expect(first!.attempts).toBeGreaterThan(failing.length);
  });

  it("where the rank has no room for a part of the others' round either, until it has freed what it holds unused", async () => {
    const failing = { ...PICTURES, failsAt: 200, leaner: RESTORED, failsAgain: true };
    const [first] = await compare([[failing], [TEXT]]);
    expect(first!.attempts).toBe(2);
  });
});

it.each([
  ["float32", {}],
  ["bfloat16", { base: "nf4", headBase: "int8" }],
] as const)("each of three ranks needs the memory of its plan, in %s with %o", async (dtype, bases) => {
  const work = [[PICTURES], [{ ...PICTURES, seed: 8 }], [{ ...TEXT, samples: [{ textTokens: 300 }] }]];
  const args = { folder, dtype, bases, work, measures: true };
  const ranks = await runRanks<Result>(3, BODY, { args });
  for (const { peakBytes, plannedBytes } of ranks) {
    expect(plannedBytes).toBeGreaterThanOrEqual(peakBytes);
    expect(plannedBytes - peakBytes).toBeLessThanOrEqual(64 * 1024);
  }
  const { peakBytes: alone } = await rank(ALONE, { ...args, work: [[PICTURES]] });
  for (const { peakBytes } of ranks) expect(peakBytes).toBeLessThan(alone);
});
