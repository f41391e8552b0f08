import fc from "fast-check";
import { expect, it } from "vitest";
import type { StepRecord } from "../train/folder/runLog.ts";
import { addRecords, noSteps, thinned } from "./stepColumns.ts";
import { addSteps, emptyDigest, lossParts, MOST_PARTS, recentSpeed } from "./stepDigest.ts";

const recordOf = (step: number, loss: number | null): StepRecord => ({
  ...{ step, loss: loss as number, gradNorm: 1, lr: 1e-4, tokens: 100, tokensPerSecond: 50, stepMs: 2000 },
  ...{ peakBytes: 1000 + step, hostPeakBytes: 0, dataWaitRatio: 0, epoch: 0 },
});

it("a digest of a run of any length has at most 40 parts, whose mean is the run's", () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 10, noNaN: true }), { minLength: 1, maxLength: 700 }),
      (losses) => {
        const digest = emptyDigest();
        addSteps(
          digest,
          losses.map((loss, at) => recordOf(at + 1, loss)),
        );
        const parts = lossParts(digest);
        expect(parts.length).toBeLessThanOrEqual(MOST_PARTS);
        const { sums, counts } = digest.losses;
        expect(counts.reduce((sum, count) => sum + count, 0)).toBe(losses.length);
        const total = losses.reduce((sum, loss) => sum + loss, 0);
        expect(sums.reduce((sum, part) => sum + part, 0)).toBeCloseTo(total, 6);
        expect(digest).toMatchObject({
          steps: losses.length,
          tokens: 100 * losses.length,
          peakBytes: 1000 + losses.length,
        });
      },
    ),
  );
});

it("adds records in any pieces to the same digest", () => {
  const records = Array.from({ length: 300 }, (_, at) => recordOf(at + 1, at % 7 === 0 ? null : at));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 299 }), (cut) => {
      const [whole, pieces] = [emptyDigest(), emptyDigest()];
      addSteps(whole, records);
      addSteps(pieces, records.slice(0, cut));
      addSteps(pieces, records.slice(cut));
      expect(pieces).toEqual(whole);
    }),
  );
});

it("takes records that lack fields or hold other things for what they are", () => {
  const digest = emptyDigest();
  addSteps(digest, [{ step: "<script>", loss: "x", slowest: 3, tokens: null } as unknown as StepRecord]);
  expect(digest).toMatchObject({ step: 0, tokens: 0, slowest: [] });
  expect(recentSpeed(digest)).toBeUndefined();
});

it("thinned steps keep the first, the last and every spike", () => {
  const columns = noSteps();
  const spikes = [1234, 5678, 9000];
  addRecords(
    columns,
    Array.from({ length: 10_000 }, (_, at) =>
      recordOf(at, spikes.includes(at) ? 9 : 1 + Math.sin(at / 50) / 2),
    ),
  );
  const thin = thinned(columns, 200);
  expect(thin.step.length).toBeLessThanOrEqual(202);
  expect(thin.step).toEqual([...thin.step].sort((a, b) => a - b));
  for (const step of [0, ...spikes, 9999]) expect(thin.step).toContain(step);
  for (const column of [thin.loss, thin.peakBytes, thin.lr]) expect(column).toHaveLength(thin.step.length);
});

it("columns of categories that appear later are filled with zeros", () => {
  const columns = noSteps();
  addRecords(columns, [
    recordOf(1, 1),
    { ...recordOf(2, 1), peakByCategory: { weights: 5 } },
    { ...recordOf(3, 1), peakByCategory: { loss: 7 } },
  ]);
  expect(columns.peakByCategory).toEqual({ weights: [0, 5, 0], loss: [0, 0, 7] });
});
