/** Gathers of a shared base in a plan: one for each visit of a layer, ahead of it except for the first. */
import { expect, it } from "vitest";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Planner } from "../../src/plan/planner.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { wiringOf } from "../../src/plan/time/links/links.ts";
import { Policy } from "../../src/step/policy.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const LAYERS = 14;
const target = findDevice("rtx-3090");
const policy = Policy.parse({
  ...{ weights: { source: "shared" }, embeddings: "shared", head: "shared", vision: "shared" },
  plora: "apart",
});
const configuration: Configuration = {
  ...{ model: smallConfig({ layers: LAYERS }), dtype: "bfloat16", target, mapsWeights: false, policy },
  lora: { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS },
  batch: { samples: 1, sampleTokens: 700, pictures: [], labelTokens: 100 },
  ranks: { rank: 0, count: 2, perMachine: 2 },
};

it.each([true, false])("has a stretch for each layer, run in full: %s", (inFull) => {
  const { phases } = dryRun(configuration, { inFull });
  const gathersOf = (name: string) =>
    phases
      .find((phase) => phase.name === name)!
      .stretches()
      .map((ops) => {
        const gathers = ops.filter(({ collective }) => collective?.kind === "gather");
        const count = (isExposed: boolean): number =>
          gathers.reduce(
            (sum, op) => sum + ((op.collective!.isExposed ?? false) === isExposed ? op.count : 0),
            0,
          );
        return { started: count(false), exposed: count(true) };
      });
  const forward = gathersOf("forward");
  expect(forward).toHaveLength(LAYERS);
  // the embeddings, and a tower that others may need; the first layer and the second
  expect(forward[0]).toEqual({ started: 4, exposed: 3 });
  expect(forward.slice(1).every(({ exposed }) => exposed === 0)).toBe(true);
  expect(forward.slice(1).reduce((sum, { started }) => sum + started, 0)).toBe(LAYERS - 2);
  expect(gathersOf("loss")).toEqual([{ started: 1, exposed: 1 }]);
  const backward = gathersOf("backward");
  expect(backward[0]).toEqual({ started: 2, exposed: 1 });
  expect(backward.slice(1).every(({ exposed }) => exposed === 0)).toBe(true);
  expect(backward.slice(1).reduce((sum, { started }) => sum + started, 0)).toBe(LAYERS - 2);
});

it("takes longer over a slower link, by what layers do not hide, and every rank needs the same memory", () => {
  const planner = (link: string) =>
    new Planner(configuration).amongRanks(0, wiringOf({ perMachine: 2, machines: 1, link }, target));
  const limits = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
  const workload = { ...configuration.lora, batch: configuration.batch };
  const plan = (link: string) => planner(link).plan(workload, policy, limits);
  const [fast, slow] = ["1000GB/s", "1MB/s"].map((link) => plan(link).stepMs);
  expect(slow).toBeGreaterThan(fast!);
  const ofRanks = [0, 1].map((rank) => planner("1GB/s").asRank(rank).plan(workload, policy, limits).run);
  expect(ofRanks[1]!.device).toEqual(ofRanks[0]!.device);
  expect(ofRanks[1]!.budgetedBytes).toBe(ofRanks[0]!.budgetedBytes);
});
