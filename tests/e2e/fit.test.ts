import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { UserError } from "../../src/errors.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { liveTensors, memoryStats } from "../../src/torch/device.ts";
import { type FitTrial, fitTrials } from "../../src/train/fit.ts";

const folder = mkdtempSync(join(tmpdir(), "fit-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
writeTinyCheckpoint(folder, {
  ...TINY,
  ...{ hidden: 32, layers: 2, heads: 4, kvHeads: 2, ffn: 48, vocab: 97, ploraRank: 4 },
  ...{ visionHidden: 16, visionLayers: 1, visionHeads: 2, visionFfn: 24 },
});
const options = {
  ...{ model: folder, device: "cpu" as const, threads: 1, lora_r: 2, lora_dropout: 0.05 },
  ...{ image_share: 0, gradient_accumulation: 1, from: 64, to: 100_000 },
};

/** Bytes of the float32 gradients of rank 2, for every linear of two layers. */
const COPY_BYTES = 6_400;

async function trialsOf(more: object): Promise<FitTrial[]> {
  const trials: FitTrial[] = [];
  for await (const trial of fitTrials({ ...options, ...more })) trials.push(trial);
  return trials;
}

it("finds the limit within two per cent, measured as planned, and gives back every byte", async () => {
  const before = [memoryStats("cpu").liveBytes, liveTensors()];
  const memory = 1_500_000;
  const trials = await trialsOf({ memory });
  const fitting = trials.filter(({ measured }) => measured);
  const longest = Math.max(...fitting.map(({ tokens }) => tokens));
  const shortestMiss = Math.min(...trials.filter(({ measured }) => !measured).map(({ tokens }) => tokens));
  expect(shortestMiss).toBeGreaterThan(longest);
  expect(shortestMiss / longest).toBeLessThan(1.021);
  for (const { planned, measured } of fitting) {
    expect(measured!.device.bytes).toBe(planned.device.peakBytes);
    expect(measured!.device.bytes).toBeLessThanOrEqual(memory);
    expect(measured!.host.bytes).toBe(planned.host.peakBytes);
  }
  expect([memoryStats("cpu").liveBytes, liveTensors()]).toEqual(before);
  expect(memoryStats("cpu").capBytes).toBeUndefined();
});

it.each([
  { place: "host", host_memory: undefined },
  { place: "device", host_memory: 0 },
] as const)(
  "a step of several micro-batches has the copy of the gradients on the $place, planned and measured",
  async ({ place, host_memory }) => {
    const lengths = { memory: 10_000_000, host_memory, to: 128 };
    const one = await trialsOf(lengths);
    const several = await trialsOf({ ...lengths, gradient_accumulation: 8 });
    for (const [index, { planned, measured }] of several.entries()) {
      const { device, host } = measured!;
      expect([device.bytes, host.bytes]).toEqual([planned.device.peakBytes, planned.host.peakBytes]);
      const { bytes: alone } = one[index]!.measured![place];
      expect(measured![place].bytes - alone).toBe(COPY_BYTES);
    }
  },
);

it("ends at the longest that is asked for, and says where nothing fits", async () => {
  const all = await trialsOf({ memory: 10_000_000, to: 200 });
  expect(all.map(({ tokens, measured }) => [tokens, measured !== undefined])).toEqual([
    [64, true],
    [128, true],
    [200, true],
  ]);
  const none = await trialsOf({ memory: 50_000 });
  expect(none.every(({ measured }) => measured === undefined)).toBe(true);
  await expect(trialsOf({})).rejects.toThrow(UserError);
});

it("says before each length how many are still to be tried, once one has failed", async () => {
  const told: (number | undefined)[] = [];
  const trials: FitTrial[] = [];
  const more = { ...options, memory: 1_500_000 };
  for await (const trial of fitTrials(more, ({ plan, triesLeft }) => {
    expect(plan.workload.maxLength).toBeGreaterThan(0);
    told.push(triesLeft);
  }))
    trials.push(trial);
  expect(told).toHaveLength(trials.length);
  const doubled = 1 + trials.findIndex(({ measured }) => !measured);
  expect(told.slice(0, doubled)).toEqual(Array(doubled).fill(undefined));
  const left = told.slice(doubled) as number[];
  expect(left[0]).toBeGreaterThanOrEqual(left.length);
  expect(left.at(-1)).toBe(1);
});
