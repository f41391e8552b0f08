import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PRESETS as FAMILY_PRESETS, officialTargets } from "../../src/models/families.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import { OFFICIAL_TARGETS, PRESETS } from "../../src/models/xcomposer2/spec.ts";
import { leanerPolicy, leanestPolicies, policyLadder, runPlaces } from "../../src/plan/ladder.ts";
import { largestBelowGaps, largestThatFits } from "../../src/plan/largestThatFits.ts";
import { type Plan, Planner, type SizedWorkload } from "../../src/plan/planner.ts";
import { fastestPlan, leastMemory, solve } from "../../src/plan/search.ts";
import { UNKNOWNS, type Unknown } from "../../src/plan/solvable.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { speedOf } from "../../src/plan/time/stepTime.ts";
import { Policy, ploraOf } from "../../src/step/policy.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const MIB = 2 ** 20;
const model = smallConfig({ layers: 6 });
const speed = speedOf(findDevice("a100-80gb"));
const plannerOf = (config: ModelConfig): Planner =>
  new Planner({ model: config, dtype: "float32", target: "cpu", mapsWeights: false }, speed);
const planner = plannerOf(model);
const workload: SizedWorkload = {
  ...{ rank: 4, dropout: 0.05, targets: OFFICIAL_TARGETS },
  ...{ maxLength: 1200, pictureLimit: 1, imageShare: undefined, batchSize: 1 },
};
const anyHost = Number.POSITIVE_INFINITY;
const ANY = { budgetBytes: 64 * MIB, hostBytes: anyHost };

describe("the ladder", () => {
  it("goes down in memory, rung by rung, to the least", () => {
    const limits = { budgetBytes: 64 * MIB, hostBytes: anyHost };
    const rungs = policyLadder(model).map(
      (policy) => planner.plan(workload, policy, limits).run.budgetedBytes,
    );
    expect(rungs.length).toBeGreaterThan(4);
    rungs.forEach((bytes, index) => {
      if (index > 0) expect(bytes, `rung ${index}`).toBeLessThanOrEqual(rungs[index - 1]!);
    });
    expect(leastMemory(planner, workload, limits).run.budgetedBytes).toBe(Math.min(...rungs));
  });

  it("can be entered with any policy, and ends", () => {
    let policy: Policy | undefined = Policy.parse({ layers: [{ count: 6, keep: "all" }] });
    let rungs = 0;
    for (; policy; rungs++) policy = leanerPolicy(policy, model);
    expect(rungs).toBeGreaterThan(6);
    expect(rungs).toBeLessThan(40);
  });

  it("never streams weights that are to stay", () => {
    for (const { weights } of policyLadder(model, { weights: "resident" }))
      expect(weights.source).toBe("resident");
  });
});

describe("the leanest policies", () => {
  it("take no more of the device where boundaries of every second layer are computed again from the host's", () => {
    const long = { ...workload, maxLength: 20_000 };
    const limits = { budgetBytes: 64 * MIB, hostBytes: anyHost };
    const [all, second] = leanestPolicies(model, { weights: "streamed" }).map(
      (policy) => planner.plan(long, policy, limits).run,
    );
    expect(second!.budgetedBytes).toBeLessThanOrEqual(all!.budgetedBytes);
    expect(second!.hostBytes).toBeLessThan(all!.hostBytes);
  });
});

it("says where times come from", () => {
  const card = findDevice("a100-80gb");
  expect(planner.timesBy).toBe("round figures for any CPU");
  expect(planner.onCard(card).timesBy).toBe("the card's data sheet");
});

describe("the fastest plan", () => {
  it("fits, and is no slower with more memory", () => {
    const budgets = [6, 8, 12, 16, 64].map((mib) => mib * MIB);
    const plans = budgets.map((budgetBytes) =>
      fastestPlan(planner, workload, { budgetBytes, hostBytes: anyHost }),
    );
    plans.forEach((plan, index) => {
      if (plan.fits) expect(plan.run.budgetedBytes).toBeLessThanOrEqual(budgets[index]!);
      if (index > 0 && plans[index - 1]!.fits)
        expect(plan.stepMs).toBeLessThanOrEqual(plans[index - 1]!.stepMs);
    });
    expect(plans.at(-1)!.fits).toBe(true);
  });

  it("merges PLoRA where pictures are long enough, and there is room for the copies", () => {
    const wide = plannerOf(smallConfig({ ffn: 4096 })); // an MLP's tile is the largest part of a step's memory
    const fastest = (shape: SizedWorkload, budgetBytes: number): Plan =>
      fastestPlan(wide, shape, { budgetBytes, hostBytes: anyHost });
    const pictures = { ...workload, maxLength: 6000, imageShare: 0.9 };
    const rich = fastest(pictures, 256 * MIB);
    expect(rich.policy.plora).toBe("merged");
    const apart = wide.plan(pictures, { ...rich.policy, plora: "apart" }, ANY);
    expect(rich.stepMs).toBeLessThan(apart.stepMs);
    const poor = leastMemory(wide, pictures, ANY).run.budgetedBytes;
    expect(fastest(pictures, poor).policy.plora).toBe("apart");
    expect(fastest({ ...workload, imageShare: 0 }, 256 * MIB).policy.plora).toBe("apart");
  });

  describe("of a model that waits for its products alone", () => {
    const slow = { ...speed, flopsPerSecond: { float32: 1e9 }, kernelMs: 0, launchMs: 0, callMs: 0 };
    const config = smallConfig({ hidden: 256, headDim: 64, ffn: 512 });
    const modelOf = { model: config, dtype: "float32", target: "cpu", mapsWeights: false } as const;
    const ranked = new Planner(modelOf, slow);
    const share = (imageShare: number): SizedWorkload => ({ ...workload, maxLength: 500, imageShare });
    const limits = { ...ANY, budgetBytes: 512 * MIB };

    it("folds PLoRA into the weights for much picture and little text, and not for text alone", () => {
      const plan = fastestPlan(ranked, share(0.95), limits);
      expect(plan.policy.plora).toBe("folded");
      for (const plora of ["apart", "merged"] as const)
        expect(plan.stepMs).toBeLessThan(ranked.plan(share(0.95), { ...plan.policy, plora }, limits).stepMs);
      expect(fastestPlan(ranked, share(0), limits).policy.plora).toBe("apart");
    });

    it("folds nothing into weights that are streamed, or that the checkpoint holds quantised", () => {
      const streamed = fastestPlan(ranked, share(0.95), limits, {
        places: runPlaces(Policy.parse({ weights: { source: "streamed" } })),
      });
      expect(ploraOf(streamed.policy).folded).toBe(false);
      const stored = new Planner({ ...modelOf, base: "int8", stored: { base: "int8" } }, slow);
      expect(ploraOf(fastestPlan(stored, share(0.95), limits).policy).folded).toBe(false);
      const folded = Policy.parse({ plora: "folded" });
      expect(() => stored.check(folded)).toThrow("the checkpoint stores in int8");
      expect(() => stored.plan(share(0.95), folded, limits)).toThrow("the checkpoint stores in int8");
      const streaming = { ...folded, weights: { source: "streamed", aheadLayers: 1 } } as const;
      expect(() => ranked.check(streaming)).toThrow("streamed weights cannot be changed");
      expect(() => ranked.plan(share(0.95), streaming, limits)).toThrow("streamed weights cannot be changed");
    });

    it("stays with what a run has loaded, also on the way down", () => {
      for (const folded of [false, true]) {
        for (const imageShare of [0, 0.95]) {
          const { policy } = fastestPlan(ranked, share(imageShare), limits, { folded });
          let rung: Policy | undefined = policy;
          for (; rung; rung = leanerPolicy(rung, config, { folded, places: runPlaces(policy) }))
            expect(ploraOf(rung).folded).toBe(folded);
        }
      }
    });
  });

  it("puts nothing on a host that has no room", () => {
    const { run } = fastestPlan(planner, workload, { budgetBytes: 64 * MIB, hostBytes: 0 });
    expect(run.hostBytes).toBe(0);
  });
});

it("fetches inputs from the host a layer ahead where that fits and is faster", () => {
  const card = findDevice("a100-40gb");
  const large = new Planner({
    model: PRESETS["4khd-7b"],
    dtype: "bfloat16",
    target: card,
    mapsWeights: true,
  });
  const limits = { budgetBytes: 8 * 2 ** 30, hostBytes: anyHost };
  const long = { ...workload, maxLength: 16_384, rank: 16, targets: OFFICIAL_TARGETS };
  const { policy, stepMs } = fastestPlan(large, long, limits);
  expect(policy.layers.map(({ boundary }) => boundary)).toContain("host");
  expect(policy.boundaryAhead).toBe(true);
  expect(stepMs).toBeLessThan(large.plan(long, { ...policy, boundaryAhead: false }, limits).stepMs);
});

describe("solving", () => {
  const ofOtherModels: readonly string[] = ["max-pixels", "max-tiles"];
  it.each((Object.keys(UNKNOWNS) as Unknown[]).filter((unknown) => !ofOtherModels.includes(unknown)))(
    "%s: what is found fits, and clearly more does not",
    (unknown) => {
      const limits = { budgetBytes: 16 * MIB, hostBytes: anyHost };
      const { solved, plan } = solve(planner, unknown, workload, limits)!;
      expect(plan.fits).toBe(true);
      const { key } = UNKNOWNS[unknown];
      const more = { ...plan.workload, [key]: Math.ceil(solved * 1.01) + 1 };
      if (unknown === "hd-num") more.maxLength = Math.ceil(more.maxLength * 1.05);
      expect(planner.plan(more, plan.policy, limits).fits).toBe(false);
    },
  );

  it("finds the largest value of the range if all fit, and tries none beyond it", () => {
    const target = findDevice("rtx-4090");
    const model = FAMILY_PRESETS["internvl3-1b"]!;
    const tiles = new Planner({ model, dtype: "bfloat16", mapsWeights: true, target });
    const asked = { ...workload, targets: officialTargets(model) };
    const limits = { budgetBytes: 48 * 1024 * MIB, hostBytes: 20 * 1024 * MIB };
    expect(solve(tiles, "max-tiles", asked, limits)!.solved).toBe(1024);
  });

  it("says so where nothing fits", () => {
    expect(
      solve(planner, "max-length", workload, { budgetBytes: MIB / 16, hostBytes: anyHost }),
    ).toBeUndefined();
  });

  const edges = fc.integer({ min: 1, max: 10 ** 6 });
  const starts = fc.integer({ min: 1, max: 2 ** 21 });

  it("finds the largest number of any rising shortage, to one part in 2048, and the same wherever it begins", () => {
    fc.assert(
      fc.property(edges, fc.double({ min: 0.5, max: 2, noNaN: true }), starts, (edge, power, from) => {
        const search = (begin: number): number =>
          largestThatFits((value) => (value / edge) ** power - 1, { least: 1, most: 2 ** 24, from: begin })!;
        const found = search(16);
        expect(found).toBeLessThanOrEqual(edge);
        expect(found).toBeGreaterThanOrEqual(edge - Math.max(1, edge / 2048));
        expect(search(from)).toBe(found);
      }),
    );
  });

  it("finds what lies below a gap, though more would fit beyond it", () => {
    fc.assert(
      fc.property(fc.integer({ min: 100, max: 10 ** 6 }), starts, (edge, from) => {
        const fits = (value: number): boolean =>
          value <= edge || (value > 1.08 * edge && value <= 1.12 * edge);
        const shortage = (value: number): number => value / (1.1 * edge) - 1 + (fits(value) ? -0.2 : 0.2);
        const found = largestBelowGaps(shortage, { least: 1, most: 2 ** 24, from })!;
        expect(found).toBeLessThanOrEqual(edge);
        expect(found).toBeGreaterThanOrEqual(edge - Math.max(1, edge / 2048));
      }),
    );
  });

  it("finds the same on a card by whichever question: what is asked for, what room is left, and room beyond that", () => {
    const limits = { budgetBytes: 16 * MIB, hostBytes: anyHost };
    const { solved, plan } = solve(planner, "max-length", workload, limits)!;
    for (const maxLength of [100, solved, 5 * solved])
      expect(solve(planner, "max-length", { ...plan.workload, maxLength }, limits)?.solved).toBe(solved);
  });
});
