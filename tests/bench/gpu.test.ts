/** Tables and figures of the GPU bench, from given measurements. */
import { expect, test } from "vitest";
import { figuresOf, percentile, rateShare } from "../../bench/gpu/figures.ts";
import { casesOf, necessaryFlops, PLACEMENTS, tokensOf } from "../../bench/gpu/matrix.ts";
import { Policy } from "../../src/step/policy.ts";

const step = (seconds: number, copyMs = 100, waitedMs = 20, dataWaitMs = 5) => ({
  ...{ seconds, loss: 1, peakBytes: 1000 * seconds, dataWaitMs },
  copies: { copies: 3, bytes: 30, copyMs, waitedMs },
});

test("figures are those of the steps after the first, peak memory that of all", () => {
  const figures = figuresOf([step(9, 500, 500, 5000), step(1), step(3, 300, 40, 30), step(2)]);
  expect(figures.seconds).toBe(2);
  expect(figures.steadiness).toBe(1.5);
  expect(figures.peakBytes).toBe(9000);
  expect(figures.dataStallShare).toBeCloseTo(40 / 6000);
  expect(figures.hiddenShare).toBeCloseTo(1 - 80 / 500);
});

test("nothing is said of copies where there are none, nor of what a peer does not tell", () => {
  expect(figuresOf([step(1), step(1, 0, 0)]).hiddenShare).toBeUndefined();
  expect(figuresOf([step(1), step(1, 10, 30)]).hiddenShare).toBe(0);
  const peer = { seconds: 1, loss: 1, peakBytes: 1 };
  expect(figuresOf([peer, peer])).toMatchObject({
    hiddenShare: undefined,
    dataStallShare: undefined,
    steadiness: 1,
  });
});

test("the 95th of a hundred is the 95th, and that of a few the largest", () => {
  expect(
    percentile(
      Array.from({ length: 100 }, (_, at) => 100 - at),
      0.95,
    ),
  ).toBe(95);
  expect(percentile([3, 1, 2], 0.95)).toBe(3);
});

test("a step of the 7B model cannot do without four FLOPs a weight and token, and attention", () => {
  const some = { size: "7b", hdNum: 25, rank: 16, base: "bf16", placement: "resident" } as const;
  const { text, image } = tokensOf(some);
  const tokens = text + image;
  const weights = 32 * 4096 * (6144 + 4096 + 3 * 14336);
  const attention = 32 * 6 * tokens ** 2 * 4096;
  const lastMlp = 4096 * 3 * 14336;
  const flops = necessaryFlops(some);
  const plain = 4 * (tokens * (weights - lastMlp) + 128 * lastMlp) + attention + 4 * 128 * 92544 * 4096;
  expect(flops).toBeGreaterThan(plain);
  expect(flops / plain).toBeLessThan(1.12); // LoRA, and PLoRA on the picture's rows, cost less than 12%
  expect(rateShare(flops, 2, flops)).toBe(0.5);
});

test("every placement is a policy, and stands in the table", () => {
  for (const placement of Object.values(PLACEMENTS)) Policy.parse(placement);
  const placements = new Set(casesOf("7b", false).map(({ placement }) => placement));
  expect([...placements].sort()).toEqual([...Object.keys(PLACEMENTS), "planned"].sort());
});
