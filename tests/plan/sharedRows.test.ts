/** Plans of ranks that share the rows of a micro-batch: what a rank measures, and longer samples. */
import { describe, expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { PRESETS } from "../../src/models/families.ts";
import { disposeLora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Planner } from "../../src/plan/planner.ts";
import { solve } from "../../src/plan/search.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { loadingOf, Policy } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import {
  getThreads,
  memoryStats,
  POOLS,
  resetPeak,
  setThreads,
  type TrackedDevice,
} from "../../src/torch/device.ts";
import { plannedPeers } from "../../src/torch/peers/peers.ts";
import { POLICIES } from "../helpers/policyCases.ts";
import { randomBatch, randomLora, randomModel, runToEnd, smallConfig } from "../helpers/randomModel.ts";

const config = smallConfig({ layers: 4, kvHeads: 8, heads: 16, headDim: 4 });
const batch = randomBatch(config, [
  { textTokens: 141, images: 1 },
  { textTokens: 300, labelTokens: 40 },
]);

/** Returns the highest live bytes of a rank's step, whose collectives bring it nothing. */
function peakOf(device: TrackedDevice, policy: Policy, rank: number, count: number): number[] {
  const model = randomModel(config, { dtype: "float32", device, ...loadingOf(policy) });
  const lora = randomLora(config, { device, dropout: 0.1 });
  const sharers = plannedPeers(rank, count);
  const before = POOLS.map((pool) => memoryStats(device, pool).liveBytes);
  for (const pool of POOLS) resetPeak(device, pool);
  runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1, dropoutSeed: 3n, sharers }));
  runToEnd(evalStep(model, lora, batch, policy, { sharers }));
  const peaks = POOLS.map((pool, index) => memoryStats(device, pool).peakBytes - before[index]!);
  disposeLora(lora);
  disposeModel(model);
  return peaks;
}

it.each([
  "default",
  "all kept",
  "the smallest working set",
  "all of it",
  "PLoRA folded, in tiles and groups",
])("each rank takes on meta what it takes on the CPU: %s", (name) => {
  const threads = getThreads();
  setThreads(1);
  const policy = Policy.parse(POLICIES[name]);
  for (const count of [2, 4])
    for (let rank = 0; rank < count; rank++)
      expect(peakOf("meta", policy, rank, count), `${rank} of ${count}`).toEqual(
        peakOf("cpu", policy, rank, count),
      );
  setThreads(threads);
});

describe("a dry run of a rank", () => {
  const base: Configuration = {
    model: smallConfig({ layers: 12, kvHeads: 8, heads: 16, headDim: 4 }),
    dtype: "bfloat16",
    lora: { rank: 4, dropout: 0.1, targets: OFFICIAL_TARGETS },
    batch: { samples: 2, sampleTokens: 1501, pictures: [tileGrid(2, 1), tileGrid(1, 1)], labelTokens: 300 },
    policy: Policy.parse({ mlpTileTokens: 512, headGroups: 2, visionBatchTiles: 1 }),
    target: findDevice("rtx-3090"),
    mapsWeights: false,
  };

  it.each([0, 1, 3])(
    "counts the same when like parts are run once as when each is run: rank %i of 4",
    (rank) => {
      const configuration = { ...base, sharers: { rank, count: 4 } };
      const [once, each] = [dryRun(configuration), dryRun(configuration, { inFull: true })];
      expect(once.device).toEqual(each.device);
      expect(once.host).toEqual(each.host);
      const flops = ({ phases }: typeof once): number =>
        phases.flatMap(({ ops }) => ops()).reduce((sum, op) => sum + op.flops * op.count, 0);
      expect(flops(once)).toBeCloseTo(flops(each), -3);
    },
  );

  it("needs less memory, the more ranks share the rows", () => {
    const peaks = [1, 2, 4].map((count) => dryRun({ ...base, sharers: { rank: 0, count } }).budgetedBytes);
    expect(peaks).toEqual(peaks.toSorted((one, other) => other - one));
  });
});

it("fits longer samples, the more ranks share the rows", () => {
  const target = findDevice("rtx-3090");
  const model = Object.values(PRESETS).find(({ family }) => family === "xcomposer2-4khd")!;
  const one = new Planner({ ...{ model, target }, dtype: "bfloat16", base: "nf4", mapsWeights: false });
  const limits = { budgetBytes: target.memoryBytes, hostBytes: Number.POSITIVE_INFINITY };
  const workload = {
    ...{ rank: 64, dropout: 0.05, targets: OFFICIAL_TARGETS, batchSize: 1 },
    ...{ pictureLimit: 16, imageShare: undefined },
  };
  const longest = [1, 2, 8].map((count) => {
    const near = { ...workload, maxLength: 400_000 * count }; // where the search begins
    return solve(one.sharingRows(count), "max-length", near, limits)!.solved;
  });
  expect(longest[1]! / longest[0]!).toBeGreaterThan(1.75);
  expect(longest[2]! / longest[0]!).toBeGreaterThan(5.4);
  expect(() => one.sharingRows(3)).toThrow("sequence_parallel 3 does not divide");
});
