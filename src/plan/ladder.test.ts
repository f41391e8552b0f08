import { describe, expect, it } from "vitest";
import { smallConfig } from "../../tests/helpers/randomModel.ts";
import { layerPolicies, Policy } from "../step/policy.ts";
import type { Category } from "../torch/device.ts";
import { leanerPolicy } from "./ladder.ts";

const config = smallConfig({ layers: 4 });
const start = Policy.parse({
  ...{ visionBatchTiles: 7, lossChunkTokens: 512, headGroups: 1, mlpTileTokens: 8192 },
  layers: [{ count: 1, boundary: "device", keep: "all" }],
});

/** Returns all steps down from a policy, if the same part of the step lacks memory each time. */
function stepsFrom(policy: Policy, short?: Category): Policy[] {
  const leaner = leanerPolicy(policy, config, {}, short);
  return leaner ? [leaner, ...stepsFrom(leaner, short)] : [];
}

describe("a step to a leaner policy", () => {
  it("is fewer tiles at a time and nothing else, down to one, if pictures ran out of memory", () => {
    const steps = stepsFrom(start, "visionFeatures");
    expect(steps.map(({ visionBatchTiles }) => visionBatchTiles)).toEqual([4, 2, 1]);
    for (const step of steps) expect({ ...step, visionBatchTiles: 7 }).toEqual(start);
  });

  it("is a smaller chunk of rows first, if the loss ran out of memory", () => {
    const chunks = stepsFrom(start, "loss").map(({ lossChunkTokens }) => lossChunkTokens);
    expect(chunks.slice(0, 2)).toEqual([256, 128]);
    expect(Math.min(...chunks)).toBe(128);
    expect(chunks.length).toBeGreaterThan(5);
  });

  it("is fewer kept values, then inputs on the host, if what layers keep ran out of memory", () => {
    const steps = stepsFrom(start, "boundaryActivations").map((policy) => layerPolicies(policy, config));
    const keeping = steps.map((layers) => layers.filter(({ keep }) => keep !== "nothing").length);
    expect(keeping.slice(0, 3)).toEqual([2, 1, 0]);
    expect(steps[3]!.every(({ boundary }) => boundary === "host")).toBe(true);
  });

  it("never takes more tiles or rows at a time than before, whatever ran out of memory before", () => {
    const lean = { ...start, visionBatchTiles: 1, lossChunkTokens: 64 };
    for (const { visionBatchTiles, lossChunkTokens } of stepsFrom(lean, "workingSet"))
      expect([visionBatchTiles, lossChunkTokens]).toEqual([1, 64]);
  });
});
