import { describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { Policy, type Policy as PolicyOf } from "../../step/policy.ts";
import { ofAllLengths, policiesJson, policyOfClass, readPolicies, withParts } from "./policyFiles.ts";

const policy = (changes: Record<string, unknown> = {}): PolicyOf => Policy.parse(changes);
const read = (text: string) => readPolicies(JSON.parse(text), (key) => key);
const classes = [
  { upToTokens: 64, policy: policy({ layers: [{ count: 1, keep: "all" }] }) },
  { upToTokens: 700, policy: policy({ headGroups: 2 }) },
];

describe("the file of a run's policies", () => {
  it("gives back what was written, by class", () => {
    expect(read(policiesJson(classes))).toEqual(classes);
    expect(read(policiesJson([...classes].reverse()))).toEqual(classes);
  });

  it("is that of one policy where there is one, as it always was", () => {
    expect(JSON.parse(policiesJson([ofAllLengths(policy({ headGroups: 4 }))]))).toMatchObject({
      headGroups: 4,
    });
    expect(read('{"headGroups": 4}')).toEqual([ofAllLengths(policy({ headGroups: 4 }))]);
  });

  it("has the longest class stand for all that are longer", () => {
    const tokens = [1, 64, 65, 700, 9000];
    expect(tokens.map((count) => policyOfClass(classes, count).headGroups)).toEqual([1, 1, 2, 2, 2]);
  });

  it.each([
    ["places", { head: "host" }],
    ["precisions", { gradients: "bf16" }],
    ["foldings", { plora: "folded" }],
  ])("is refused with classes of different %s, for a model is loaded once", (_, other) => {
    const mixed = { classes: [...classes, { upToTokens: 900, policy: policy(other) }] };
    expect(() => read(JSON.stringify(mixed))).toThrow(UserError);
    expect(() => read(JSON.stringify(mixed))).toThrow(
      /up to 64 and up to 900 tokens do not belong to one run/,
    );
  });

  it("names what is wrong in it", () => {
    expect(() => read('{"classes": []}')).toThrow(UserError);
    expect(() => read('{"classes": [{"upToTokens": 5, "policy": {"headGroup": 2}}]}')).toThrow(/headGroup/);
  });
});

describe("single choices", () => {
  const given = { mlp_tile: 1024, keep: "nothing", boundaries: "host" } as const;
  const none = { head_groups: undefined, loss_chunk: undefined, vision_batch: undefined };

  it("change themselves and nothing else, in all layers", () => {
    const before = policy({
      ...{ plora: "folded", attentionInput: "recomputed", headGroups: 4, optimizer: { place: "host" } },
      layers: [
        { count: 2, keep: "all" },
        { count: 1, boundary: "none" },
      ],
    });
    expect(withParts(before, { ...none, ...given })).toEqual({
      ...before,
      mlpTileTokens: 1024,
      layers: [
        { count: 2, keep: "nothing", boundary: "host" },
        { count: 1, keep: "nothing", boundary: "host" },
      ],
    });
  });

  it("hold for the default policy, which speaks of no layer", () => {
    expect(withParts(policy(), { ...none, ...given }).layers).toEqual([
      { count: 1, keep: "nothing", boundary: "host" },
    ]);
  });
});
