/**
 * The promise of a plan: whatever a data set mixes, no micro-batch, loss or answer takes more memory than its
 * class was planned with.
 */

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { getThreads, POOLS, setThreads } from "../../src/torch/device.ts";
import { checksOf, type Draw, draws, slackBytes } from "../helpers/mixedData.ts";

const threads = getThreads();
beforeAll(() => setThreads(1));
afterAll(() => setThreads(threads));

function expectCovered(draw: Draw): void {
  for (const { what, planned, taken } of checksOf(draw)) {
    for (const pool of POOLS)
      expect(planned[pool] + slackBytes(draw), `${what}, ${pool}`).toBeGreaterThanOrEqual(taken[pool]);
  }
}

describe("a picture of many tiles beside more rows of small ones", () => {
  const words = { text: 40, learned: true };
  const small = tileGrid(1, 1);
  const many = (count: number) => [...Array<typeof small>(count).fill(small), words];
  const mixes = {
    "four of a tile and one of seven": [many(4), [tileGrid(1, 7), words]],
    "two of a tile and one of three": [many(2), [tileGrid(1, 3), words]],
  };
  const draw: Omit<Draw, "samples" | "part"> = {
    ...{ layers: 1, heads: [1, 1], ffn: 24, towerWidth: 32, patchPixels: 2, dropout: 0, device: "cpu" },
    policy: {
      ...{
        headGroups: 1,
        mlpTileTokens: 512,
        lossChunkTokens: 128,
        visionBatchTiles: 8,
        attentionInput: "kept",
      },
      ...{ plora: "apart", reuseAttention: true, layers: [], weights: { source: "resident" } },
      ...{ embeddings: "device", head: "device", vision: "device" },
    },
    packing: { by: "samples", samples: 1 },
  };
  it.each(Object.entries(mixes))("is planned for in training, losses and answers: %s", (_, samples) => {
    for (const part of ["step", "loss", "answer"] as const) expectCovered({ ...draw, samples, part });
    for (const packing of [
      { by: "samples", samples: 2 },
      { by: "tokens", tokens: 4096 },
    ] as const)
      expectCovered({ ...draw, samples, packing, part: "step" });
  });
});

/** MIXED_DRAWS sets the number of draws, MIXED_SEED draws others. */
const { MIXED_DRAWS = 300, MIXED_SEED = 13 } = process.env;

it("a plan is at least what any micro-batch, loss or answer of the data takes", () => {
  const covered = fc.property(draws, (draw) => expectCovered(draw));
  fc.assert(covered, { numRuns: Number(MIXED_DRAWS), seed: Number(MIXED_SEED) });
}, 3_600_000);
