/**
 * Attention kernels of a card: each one computes what the rule's kernel computes, and a run can choose.
 * Reported as skipped if there is no card.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { kernelsOf } from "../../src/nn/attention/kernels.ts";
import { type AttentionUse, kernelTrial, settledAttention } from "../../src/plan/time/attentionChoice.ts";
import { cardInfo, cudaProblem } from "../../src/torch/device.ts";

const card = "cuda:0";
const problem = cudaProblem();
if (problem) console.warn(`SKIPPED: no attention kernel is tried on a card. ${problem}`);

const use: AttentionUse = {
  config: { heads: 32, kvHeads: 8, headDim: 128 },
  dtype: "float16",
  tokens: 2048,
  packed: true,
};
const cache = mkdtempSync(join(tmpdir(), "lorafit-attention-"));
vi.stubEnv("XDG_CACHE_HOME", cache);
afterAll(() => rmSync(cache, { recursive: true }));

describe.skipIf(problem)("attention on a card", () => {
  const kernels = problem ? [] : kernelsOf(cardInfo(card).capability, use.dtype);

  test.each([[[1000]], [[1]], [[513, 1, 262]]])(
    "every kernel computes what the rule's does, samples of %j",
    (lengths) => {
      const [rule] = kernels;
      for (const kernel of kernels) {
        const { difference } = kernelTrial(card, use, { kernel, rule: rule! }, lengths);
        expect(difference, kernel).toBeLessThan(0.03);
      }
    },
  );

  test("a run times them once, and names the fastest", () => {
    const told: string[] = [];
    const choose = () => settledAttention("measured", card, use, (text) => told.push(text));
    const chosen = choose();
    expect(kernels).toContain(chosen);
    expect(choose()).toBe(chosen);
    expect(told[0]).toContain("timed now");
    expect(told[1]).toContain("as timed here before");
    console.log(told[0]);
  });
});
