/**
 * A run's policies by length. Each class of micro-batches has the fastest policy that fits; all classes share
 * their places.
 */

import { describe, expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import type { PreparedSample } from "../../src/data/samples/validate.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { runPlaces, type StepDown } from "../../src/plan/ladder.ts";
import { Planner } from "../../src/plan/planner.ts";
import { leastMemory } from "../../src/plan/search.ts";
import { layerPolicies, type Policy, ploraOf } from "../../src/step/policy.ts";
import { demandOf } from "../../src/train/data/memoryDemand.ts";
import { RunPlan, workloadOf } from "../../src/train/planning/policyByLength.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const config = smallConfig({ layers: 4 });
const speed = {
  flopsPerSecond: { float32: 1e11 },
  ...{ attentionRatios: { flash: 0.5, cudnn: 0.5, efficient: 0.5 }, memoryBytesPerSecond: 1e10 },
  ...{ linkBytesPerSecond: 1e10, kernelMs: 2e-3, launchMs: 0, callMs: 0 },
};
const planner = new Planner({ model: config, dtype: "float32", target: "cpu", mapsWeights: true }, speed);
const workload = { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS };
const SHORT = 70;
const LONG = 2000;
const demand = demandOf([SHORT, 500, LONG].map(textOf), { by: "samples", samples: 1 });
const UNLIMITED = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
const least = leastMemory(planner, workloadOf(workload, demand.shapeOf(LONG)), UNLIMITED);
/** A little more than the least memory of the longest micro-batch. */
const limits = { ...UNLIMITED, budgetBytes: Math.ceil(1.1 * least.run.budgetedBytes) };

function textOf(tokens: number): PreparedSample {
  const labels = new Int32Array(tokens).fill(7);
  return {
    inputIds: new Int32Array(tokens),
    labels,
    grids: [],
    images: [],
    tokens,
  } as unknown as PreparedSample;
}

function planOf(stepsDown: StepDown[] = []): RunPlan {
  return new RunPlan({
    planner,
    workload,
    demand,
    choice: { by: "planner", limits },
    stepsDown,
  });
}

const layersThatKeep = (policy: Policy): number =>
  layerPolicies(policy, config).filter(({ keep }) => keep !== "nothing").length;

describe("the policies of a run whose longest micro-batch hardly fits", () => {
  it("keep graphs of short micro-batches that long ones can't, within the same memory", () => {
    const plan = planOf();
    expect(layersThatKeep(plan.policyFor(SHORT))).toBe(config.layers);
    expect(layersThatKeep(plan.policyFor(LONG))).toBeLessThan(config.layers);
    for (const tokens of [SHORT, 500, LONG])
      expect(plan.plannedAtMost(tokens).budgetedBytes).toBeLessThanOrEqual(limits.budgetBytes);
  });

  it("want model and optimizer in the same places", () => {
    const plan = planOf();
    for (const tokens of [SHORT, 500])
      expect(runPlaces(plan.policyFor(tokens))).toEqual(runPlaces(plan.policy));
  });

  it("get leaner where memory ran out and for longer ones, and shorter ones stay as they are", () => {
    const [plan, before] = [planOf(), planOf()];
    const leaner = plan.stepDown(500);
    expect(leaner).not.toEqual(before.policyFor(500));
    expect(plan.policyFor(500)).toEqual(leaner);
    expect(plan.policyFor(SHORT)).toEqual(before.policyFor(SHORT));
    expect(planOf([...plan.stepsDown]).policyFor(500)).toEqual(leaner);
  });
});

describe("PLoRA of a run", () => {
  const wide = smallConfig({ layers: 6, hidden: 256, headDim: 64, ffn: 512 });
  const slow = { ...speed, flopsPerSecond: { float32: 1e9 }, kernelMs: 0 };
  const pictured = new Planner({ model: wide, dtype: "float32", target: "cpu", mapsWeights: true }, slow);
  const tall = tileGrid(2, 1);
  const textOfPage = textOf(500 - tall.tokens + 1);
  textOfPage.inputIds[0] = IMAGE_SLOT;
  const page: PreparedSample = {
    ...textOfPage,
    grids: [{ ...tall, source: { width: 336, height: 672 } }],
    tokens: 500,
  };
  const runOf = (samples: PreparedSample[], limits = UNLIMITED, folded?: boolean): RunPlan =>
    new RunPlan({
      ...{ planner: pictured, workload, stepsDown: [] },
      demand: demandOf(samples, { by: "samples", samples: 1 }),
      choice: { by: "planner", limits, folded },
    });

  it("is folded, for all lengths, where the data is pictures with little text", () => {
    const plan = runOf([textOf(64), page, page, page]);
    for (const tokens of [64, 500]) expect(ploraOf(plan.policyFor(tokens)).folded).toBe(true);
  });

  it("is not folded for a picture among much text, though that would be faster for the picture", () => {
    const plan = runOf([textOf(64), textOf(460), textOf(470), textOf(480), page]);
    for (const tokens of [64, 470, 500]) expect(ploraOf(plan.policyFor(tokens)).folded).toBe(false);
  });

  describe("that goes on", () => {
    const pages = [textOf(64), page, page, page];
    const texts = [textOf(64), textOf(460), textOf(470), textOf(480), page];

    it("stays as it was, though a new one would be the other, within any memory that it fits", () => {
      const budgetBytes = 2 * runOf(texts, UNLIMITED, true).longest!.run.budgetedBytes;
      for (const limits of [UNLIMITED, { ...UNLIMITED, budgetBytes }]) {
        for (const tokens of [64, 500]) {
          expect(ploraOf(runOf(texts, limits, true).policyFor(tokens)).folded).toBe(true);
          expect(ploraOf(runOf(pages, limits, false).policyFor(tokens)).folded).toBe(false);
        }
      }
    });

    it("has the very policy of its beginning within the same memory", () => {
      expect(runOf(pages, UNLIMITED, true).policy).toEqual(runOf(pages).policy);
      expect(runOf(texts, UNLIMITED, false).policy).toEqual(runOf(texts).policy);
    });

    it("is folded no longer where its weights have to be streamed", () => {
      const { shapeOf, mostTokens } = demandOf(pages, { by: "samples", samples: 1 });
      const streamed = leastMemory(pictured, workloadOf(workload, shapeOf(mostTokens)), UNLIMITED);
      const { longest } = runOf(pages, { ...UNLIMITED, budgetBytes: streamed.run.budgetedBytes }, true);
      expect(longest).toMatchObject({ fits: true, policy: { weights: { source: "streamed" } } });
      expect(ploraOf(longest!.policy).folded).toBe(false);
    });
  });
});
