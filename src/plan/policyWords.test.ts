import { describe, expect, it } from "vitest";
import { PRESETS } from "../models/xcomposer2/spec.ts";
import { Policy } from "../step/policy.ts";
import { concessionGroups, concessionsOf } from "./policyWords.ts";

const config = PRESETS["4khd-7b"];
type Given = Partial<Policy>;
const policyOf = (given: Given): Policy =>
  Policy.parse({
    ...{ headGroups: 1, mlpTileTokens: 8192, lossChunkTokens: 1024, visionBatchTiles: 8 },
    ...{ attentionInput: "kept", plora: "apart", weights: { source: "resident", aheadLayers: 1 } },
    ...{ embeddings: "device", head: "device", vision: "device" },
    ...{ optimizer: { place: "device", precision: "fp32" }, gradients: "fp32" },
    layers: [{ boundary: "device", keep: "all", count: 32 }],
    ...given,
  });
const LEAN: Given = {
  ...{
    headGroups: 8,
    mlpTileTokens: 512,
    attentionInput: "recomputed",
    plora: "merged",
    boundaryAhead: true,
  },
  ...{ embeddings: "host", head: "host", vision: "host", weights: { source: "streamed", aheadLayers: 1 } },
  optimizer: { place: "host", precision: "fp32" },
  layers: [
    { boundary: "host", keep: "all", count: 15 },
    { boundary: "host", keep: "nothing", count: 17 },
  ],
};

describe("a policy in words", () => {
  it("is grouped by what lies elsewhere, goes in parts, is computed again, and is done for speed", () => {
    expect(concessionGroups(policyOf(LEAN), config, "in RAM")).toEqual([
      [
        "in RAM",
        [
          "frozen weights (copied layer by layer)",
          "inputs of all layers (until the backward pass, copied back one layer early)",
          ...["optimizer state", "embeddings", "vision tower", "output head"],
        ],
      ],
      ["in parts", ["attention in 8 parts", "the MLP in slices of 512 tokens"]],
      [
        "computed again",
        ["the values of 17 of 32 layers (gradient checkpointing)", "attention's input (for each part)"],
      ],
      ["for speed", [expect.stringMatching(/^PLoRA merged \(.*image tokens/)]],
    ]);
  });

  it("has nothing to say where every layer keeps its values and all is on the device", () => {
    expect(concessionsOf(policyOf({}), config)).toEqual([]);
  });

  it("tells beyond another policy only what that one does not do", () => {
    const [beyond, policy] = [policyOf({ headGroups: 4, vision: "host" }), policyOf(LEAN)];
    const lines = concessionsOf(policy, config, { beyond, where: "set aside" });
    expect(lines[0]).toBe(
      "frozen weights, inputs of all layers, optimizer state, embeddings and output head set aside",
    );
    expect(concessionsOf(policyOf({ vision: "host" }), config)).toEqual(["vision tower on the host"]);
  });

  it("tells frozen parts that are mapped from the checkpoint's files apart from what the host holds", () => {
    expect(
      concessionsOf(policyOf(LEAN), config, { mapped: ["base", "headBase", "visionBase"] }).slice(0, 2),
    ).toEqual([
      "inputs of all layers and optimizer state on the host",
      "frozen weights, embeddings, vision tower and output head in the checkpoint's files",
    ]);
  });

  it("tells a part that is made while it is loaded with what the host holds, though others are mapped", () => {
    expect(concessionsOf(policyOf(LEAN), config, { mapped: ["base", "headBase"] }).slice(0, 2)).toEqual([
      "inputs of all layers, optimizer state and vision tower on the host",
      "frozen weights, embeddings and output head in the checkpoint's files",
    ]);
  });

  it("names what layers keep while the rest of them is computed again", () => {
    const again = (kept: number, keep: "attention" | "middle" = "attention"): string[] =>
      concessionsOf(
        policyOf({
          layers: [
            { boundary: "device", keep, count: kept },
            ...(kept < 32 ? [{ boundary: "device", keep: "nothing", count: 32 - kept } as const] : []),
          ],
        }),
        config,
      );
    expect(again(12)).toEqual(["the values of all layers except attention's in 12 of them computed again"]);
    expect(again(32)).toEqual(["the values of all layers except attention's in each computed again"]);
    expect(again(3, "middle")[0]).toBe(
      "the values of all layers except the MLP's input in 3 of them computed again",
    );
  });
});
