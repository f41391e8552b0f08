/** Processes that share the rows of a micro-batch over Gloo, each within the memory of its plan. */
import { expect, test } from "vitest";
import { ALONE } from "../../src/torch/peers/peers.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import { type Args, type Result, step } from "./sharedRows.rank.ts";

const BODY = new URL("./sharedRows.rank.ts", import.meta.url);

const CASES: Record<string, Args> = {
  "packed samples with pictures, in head groups": {
    samples: [{ textTokens: 21, images: 2 }, { textTokens: 7, labelTokens: 1 }, { textTokens: 65 }],
    policy: { headGroups: 2, mlpTileTokens: 30, visionBatchTiles: 1 },
    dropout: 0.2,
  },
  "text with one label, all that a layer keeps": {
    samples: [{ textTokens: 104, labelTokens: 1 }],
    policy: { layers: [{ count: 4, keep: "all" }] },
    dropout: 0,
  },
  "from the host, streamed": {
    samples: [{ textTokens: 60, images: 1 }],
    policy: {
      ...{ attentionInput: "recomputed", reuseAttention: false, mlpTileTokens: 16, headGroups: 2 },
      ...{ weights: { source: "streamed" }, embeddings: "host", head: "host", vision: "host" },
      layers: [
        { count: 1, boundary: "host" },
        { count: 3, boundary: "none" },
      ],
    },
    dropout: 0.1,
  },
};

test.each(Object.keys(CASES).flatMap((name) => [2, 3, 4].map((count) => [count, name] as const)))(
  "%i processes have the loss and gradients of one, and the memory of the plan: %s",
  async (count, name) => {
    const args = CASES[name]!;
    const alone = step(args, { device: "cpu", sharers: ALONE });
    const results = await runRanks<Result>(count, BODY, { args, peers: { openTimeoutMs: 200_000 } });
    for (const { loss, evalLoss, measuredBytes, plannedBytes, leftBytes } of results) {
      expect(Math.abs(loss / alone.loss - 1)).toBeLessThan(1e-5);
      expect(Math.abs(evalLoss / alone.evalLoss - 1)).toBeLessThan(1e-5);
      expect([loss, evalLoss]).toEqual([results[0]!.loss, results[0]!.evalLoss]);
      expect(measuredBytes).toEqual(plannedBytes);
      expect(leftBytes).toBe(0);
    }
    for (const [module, expected] of Object.entries(alone.gradients)) {
      const most = Math.max(...expected.map(Math.abs));
      expected.forEach((value, at) => {
        const sum = results.reduce((total, { gradients }) => total + gradients[module]![at]!, 0);
        if (Math.abs(sum - value) > 1e-5 * most) expect.fail(`${module}[${at}] is ${sum}, not ${value}`);
      });
    }
  },
);
