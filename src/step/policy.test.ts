import { describe, expect, it } from "vitest";
import { PRESETS } from "../models/xcomposer2/spec.ts";
import { DEFAULT_POLICY, layerPolicies, Policy, ploraName, ploraOf } from "./policy.ts";

const config = PRESETS["4khd-7b"];
const layersOf = (policy: unknown) => layerPolicies(Policy.parse(policy), config);

describe("Policy", () => {
  it("reads its own output, and half an object within it", () => {
    expect(Policy.parse(DEFAULT_POLICY)).toEqual(DEFAULT_POLICY);
    expect(Policy.parse({ weights: { aheadLayers: 2 } }).weights).toEqual({
      source: "resident",
      aheadLayers: 2,
    });
    expect(Policy.safeParse({ weights: { ahead: 2 } }).success).toBe(false);
  });
});

it("what a policy does about PLoRA has one name", () => {
  for (const plora of Policy.shape.plora.unwrap().options) expect(ploraName(ploraOf({ plora }))).toBe(plora);
});

describe("layerPolicies", () => {
  it("gives the last run's policy to every layer after it", () => {
    const layers = layersOf({
      layers: [
        { count: 3, keep: "all" },
        { count: 1, boundary: "host" },
      ],
    });
    expect(layers).toHaveLength(32);
    expect(layers.slice(0, 3).every(({ keep, boundary }) => keep === "all" && boundary === "device")).toBe(
      true,
    );
    expect(layers.slice(3).every(({ keep, boundary }) => keep === "nothing" && boundary === "host")).toBe(
      true,
    );
  });

  it("refuses what does not fit the model", () => {
    expect(() => layersOf({ headGroups: 3 })).toThrow("do not divide 8 kv heads");
    const foldedStream = { plora: "folded", weights: { source: "streamed" } };
    expect(() => layersOf(foldedStream)).toThrow("streamed weights cannot be changed");
    expect(() => layersOf({ layers: [{ count: 33 }] })).toThrow("33 layers; the model has 32");
    expect(() => layersOf({ layers: [{ count: 1, boundary: "none" }] })).toThrow(
      "no boundary of the first layer",
    );
  });
});
