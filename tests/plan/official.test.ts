import { describe, expect, it } from "vitest";
import { HD_TILES } from "../../src/data/pictures/hdTiles/hdTiles.ts";
import { OFFICIAL_TARGETS, PRESETS } from "../../src/models/xcomposer2/spec.ts";
import { batchOf } from "../../src/plan/dryRun/batchShapes.ts";
import { officialRun } from "../../src/plan/dryRun/officialRun.ts";
import { Planner, type SizedWorkload } from "../../src/plan/planner.ts";
import { leastMemory } from "../../src/plan/search.ts";
import { cardOfMemory, findDevice } from "../../src/plan/time/cards.ts";

const GIB = 2 ** 30;
const model = { model: PRESETS["4khd-7b"], dtype: "bfloat16", mapsWeights: true } as const;
const workload: SizedWorkload = {
  ...{ rank: 64, dropout: 0.05, targets: OFFICIAL_TARGETS },
  ...{ maxLength: 4096, pictureLimit: 16, imageShare: undefined, batchSize: 1 },
};
/** 8.6e9 parameters of 2 bytes. No card's plan has fewer if all weights lie on the card. */
const WEIGHTS_BYTES = 16 * GIB;

describe("the official schedule at 7B size", () => {
  const { rank, dropout, targets } = workload;
  const lora = { rank, dropout, targets };
  const run = officialRun({
    ...model,
    target: findDevice("a100-80gb"),
    batch: batchOf(workload, HD_TILES),
    lora,
  });

  it("has the whole base, boundaries and float32 logits of every row on the device", () => {
    const { weights, boundaryActivations, optimizerState, loss } = run.device.categories;
    expect(weights).toBeGreaterThan(WEIGHTS_BYTES);
    expect(boundaryActivations).toBeGreaterThanOrEqual(32 * 4096 * 4096 * 2);
    expect(loss).toBeGreaterThan(4096 * 92_544 * 4);
    const known = weights + boundaryActivations + optimizerState + loss;
    expect(run.budgetedBytes).toBeGreaterThan(known);
    expect(run.hostBytes).toBe(0);
  });

  it("takes as much on every card with the same kernels", () => {
    const other = officialRun({
      ...model,
      target: cardOfMemory(8 * GIB),
      batch: batchOf(workload, HD_TILES),
      lora,
    });
    expect(other.device).toEqual(run.device);
  });
});

describe("a plan with nothing on the host", () => {
  it.each(["rtx-4090", "v100-32gb"])("has every byte on the card (%s)", (name) => {
    const planner = new Planner({ ...model, target: findDevice(name) });
    const limits = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: 0 };
    const { run, policy } = leastMemory(planner, workload, limits);
    expect(run.hostBytes).toBe(0);
    expect(run.host.peakBytes).toBe(0);
    expect(run.device.categories.weights).toBeGreaterThan(WEIGHTS_BYTES);
    const { embeddings, head, vision, weights, optimizer } = policy;
    expect([embeddings, head, vision, optimizer.place]).toEqual(["device", "device", "device", "device"]);
    expect(weights.source).toBe("resident");
    const onHost = leastMemory(planner, workload, { ...limits, hostBytes: Number.POSITIVE_INFINITY });
    expect(run.budgetedBytes).toBeGreaterThan(onHost.run.budgetedBytes + 10 * GIB);
  });
});
