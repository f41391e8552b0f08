/** Values of config.json, from wherever transformers 4 and 5 write them. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openModelFolder } from "../../checkpoint/folder.ts";
import { UserError } from "../../errors.ts";
import { readModelConfig } from "../families.ts";
import type { ModelConfig } from "../family.ts";
import { readXComposerConfig } from "./readConfig.ts";
import { TINY, writeTinyCheckpoint } from "./tiny.ts";

const SMALL = { ...TINY, hidden: 64, heads: 4, layers: 2, ffn: 96, vocab: 128 };
let folder: string;
const originals: Record<string, string> = {};

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "config-"));
  writeTinyCheckpoint(folder, SMALL);
  for (const name of ["config.json", "vision_config.json", "generation_config.json"]) {
    originals[name] = readFileSync(join(folder, name), "utf8");
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

type Changes = Record<string, unknown>;

/** Reads the model with changed files; undefined removes a key. */
function read(changes: Changes, others: Record<string, Changes> = {}): ModelConfig {
  for (const [name, text] of Object.entries(originals)) {
    const json = { ...(JSON.parse(text) as object), ...(name === "config.json" ? changes : others[name]) };
    writeFileSync(join(folder, name), JSON.stringify(json));
  }
  const opened = openModelFolder(folder);
  try {
    return readModelConfig(opened);
  } finally {
    opened.weights.close();
  }
}

function faultOf(changes: Changes, others?: Record<string, Changes>): UserError {
  try {
    read(changes, others);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(UserError);
    return thrown as UserError;
  }
  throw new Error("it was read");
}

const NO_ROPE = { rope_theta: undefined, rope_scaling: undefined };

describe("rotary positions", () => {
  it("are read as transformers 4 and 5 write them", () => {
    const four = read({ rope_theta: 1e4, rope_scaling: null });
    expect(four.ropeTheta).toBe(1e4);
    expect(four.ropeScaling).toBeUndefined();
    const five = { ...NO_ROPE, rope_parameters: { rope_theta: 1e4, rope_type: "default" } };
    expect(read(five)).toEqual(four);
    expect(read({ ...five, rope_theta: 7 })).toEqual(four);
    const nested = { ...NO_ROPE, text_config: { rope_parameters: five.rope_parameters } };
    expect(read(nested)).toEqual(four);
  });

  it.each<[string, Changes, ModelConfig["ropeScaling"]]>([
    ["linear", { rope_scaling: { type: "linear", factor: 8 } }, { kind: "linear", factor: 8 }],
    ["dynamic", { rope_scaling: { rope_type: "dynamic", factor: 2.5 } }, { kind: "dynamic", factor: 2.5 }],
    [
      "of transformers 5",
      {
        ...NO_ROPE,
        rope_parameters: { rope_theta: 1e6, rope_type: "linear", type: "linear", factor: 2, beta: null },
      },
      { kind: "linear", factor: 2 },
    ],
  ])("with scaling %s", (_, changes, scaling) => {
    const { ropeScaling, ropeTheta } = read(changes);
    expect([ropeScaling, ropeTheta]).toEqual([scaling, 1e6]);
  });

  it.each<[string, Changes, string]>([
    ["yarn", { rope_scaling: { type: "yarn", factor: 4 } }, 'kind "yarn", which lorafit does not compute'],
    ["a factor below 1", { rope_scaling: { type: "linear", factor: 0.5 } }, "needs a factor of at least 1"],
    ["no factor", { rope_scaling: { type: "dynamic" } }, "needs a factor of at least 1"],
    [
      "half of the dims",
      { rope_scaling: { rope_type: "default", partial_rotary_factor: 0.5 } },
      'partial_rotary_factor "0.5"',
    ],
    ["a theta that is none", { rope_theta: "large" }, "rope_theta is not a positive number"],
  ])("are refused with %s", (_, changes, message) => {
    expect(faultOf(changes).message).toContain(message);
  });
});

it("ids that end an answer may be a list, and stand in generation_config.json", () => {
  expect(read({ eos_token_id: [2, 92542] }).eosIds).toEqual([2, 92542]);
  const generation = { "generation_config.json": { eos_token_id: [5, 6], bos_token_id: 4 } };
  const { eosIds, bosId } = read({ eos_token_id: null, bos_token_id: null }, generation);
  expect([eosIds, bosId]).toEqual([[5, 6], 4]);
  expect(faultOf({ eos_token_id: "end" }).message).toContain("eos_token_id is neither a number nor a list");
});

it("null stands for a value that is not set", () => {
  const unset = {
    num_key_value_heads: 2,
    rms_norm_eps: null,
    max_position_embeddings: null,
    hidden_act: null,
  };
  expect(read(unset)).toEqual(read({}));
});

it.each<[string, Changes, Changes, string]>([
  [
    "layers",
    { num_hidden_layers: 300_000 },
    {},
    "config.json says 300,000 layers; the weights have 2 layers.",
  ],
  [
    "layers of the vision tower",
    {},
    { num_hidden_layers: 1 },
    "vision_config.json says 1 layer; the weights have 2 layers.",
  ],
  [
    "heads of the vision tower",
    {},
    { num_attention_heads: 7 },
    "vision_config.json: 7 heads do not divide hidden size 64.",
  ],
  ["an activation", {}, { hidden_act: "gelu" }, "vision_config.json: hidden_act"],
  ["the decoder's activation", { hidden_act: "gelu" }, {}, "config.json: hidden_act"],
  ["dims of a head", { head_dim: 32 }, {}, "a head of 32 dims does not fit 4 heads of hidden size 64"],
  [
    "heads of odd dims",
    { num_attention_heads: 64, num_key_value_heads: 64 },
    {},
    "a head of 1 dims does not fit",
  ],
])("refuses %s that are not those of the model", (_, changes, vision, message) => {
  expect(faultOf(changes, { "vision_config.json": vision }).message).toContain(message);
});

it("a tower of another model is refused with the models that are read", () => {
  const weights = { has: () => true, entry: () => ({ shape: [1025, 1024] }), names: [] };
  const config = JSON.parse(originals["config.json"]!) as Record<string, unknown>;
  const opened = { folder: tmpdir(), config, weights } as unknown as Parameters<
    typeof readXComposerConfig
  >[0];
  expect(() => readXComposerConfig(opened)).toThrow("the vision tower has 1025 positions");
});
