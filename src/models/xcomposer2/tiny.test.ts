import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { golden } from "../../../tests/helpers/shared.ts";
import { UserError } from "../../errors.ts";
import { frozenValues } from "../../nn/frozen/frozen.ts";
import { memoryStats } from "../../torch/device.ts";
import { scope } from "../../torch/tensor.ts";
import { generateSteps } from "../generation/generate.ts";
import { GREEDY } from "../generation/sampling.ts";
import { disposeModel, loadModel } from "../weights.ts";
import { TOWERS_BY_POSITIONS } from "./spec.ts";
import { TINY, tinyConfig, writeTinyCheckpoint } from "./tiny.ts";

const root = mkdtempSync(join(tmpdir(), "tiny-"));
afterAll(() => rmSync(root, { recursive: true }));

const SMALL = { ...TINY, hidden: 64, heads: 4, layers: 2, ffn: 96, vocab: 128 };

test("a checkpoint loads as the sizes say, in either dtype, with the scalings of PLoRA", () => {
  for (const dtype of ["float32", "bfloat16"] as const) {
    const folder = join(root, dtype);
    writeTinyCheckpoint(folder, { ...SMALL, dtype });
    const model = loadModel(folder, { dtype, device: "cpu" });
    expect(model.config).toEqual(tinyConfig(SMALL));
    expect(model.layers[0]!.linears["attention.wqkv"]!.plora!.scale).toBe(2);
    expect(model.layers[1]!.linears["feed_forward.w2"]!.plora!.a.shape).toEqual([TINY.ploraRank, SMALL.ffn]);
    disposeModel(model);
  }
});

test.each([
  ["xcomposer2.5-7b", { imagePixels: 560 }],
  ["xcomposer2-vl-7b", { imagePixels: 490, isWhole: true }],
] as const)("a checkpoint may be a tiny %s, which its tower tells", (preset, vision) => {
  const folder = join(root, preset);
  const sizes = { ...SMALL, preset, visionHidden: 1024, visionLayers: 24, visionHeads: 16, visionFfn: 4096 };
  const small = { ...SMALL, preset };
  writeTinyCheckpoint(folder, small);
  const model = loadModel(folder, { dtype: "float32", device: "cpu" });
  expect(model.config).toEqual(tinyConfig(small));
  expect(model.config).toMatchObject({ vision });
  expect(model.layers[0]!.linears["attention.wqkv"]!.plora).toMatchObject({ scale: 1 });
  disposeModel(model);
  // official folders have no vision_config.json: the tower is known by its positions
  expect(TOWERS_BY_POSITIONS.get((vision.imagePixels / 14) ** 2 + 1)).toEqual(tinyConfig(sizes).vision);
});

test("config.json has the keys of the official schema, and all files of a folder are there", () => {
  const folder = join(root, "files");
  const tokenizer = Uint8Array.of(1, 2, 3);
  writeTinyCheckpoint(folder, SMALL, tokenizer);
  const keys = (path: string) => Object.keys(JSON.parse(readFileSync(path, "utf8"))).sort();
  for (const name of ["config.json", "vision_config.json"]) {
    expect(keys(join(folder, name))).toEqual(keys(golden(`tiny/${name}`)));
  }
  expect(readdirSync(folder).sort()).toEqual([
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "plora.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vision_config.json",
  ]);
  expect(new Uint8Array(readFileSync(join(folder, "tokenizer.model")))).toEqual(tokenizer);
});

test("the same seed gives the same bytes, another one others; memory is given back", () => {
  const beforeBytes = memoryStats("cpu").liveBytes;
  const weights = (name: string, seed: number) => {
    writeTinyCheckpoint(join(root, name), { ...SMALL, seed });
    return readFileSync(join(root, name, "model.safetensors"));
  };
  const first = weights("first", 1);
  expect(first.equals(weights("again", 1))).toBe(true);
  expect(first.equals(weights("other", 2))).toBe(false);
  expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
});

test("more bytes than a shard's make several with an index", () => {
  const folder = join(root, "shards");
  writeTinyCheckpoint(folder, { ...SMALL, shardBytes: 200_000 });
  const files = readdirSync(folder).filter((name) => name.endsWith(".safetensors"));
  expect(files.length).toBeGreaterThan(2);
  disposeModel(loadModel(folder, { dtype: "float32", device: "cpu" }));
});

test("logits begin with a deviation of about 1: the loss begins near ln(vocab)", () => {
  const folder = join(root, "lively");
  writeTinyCheckpoint(folder, TINY);
  const model = loadModel(folder, { dtype: "float32", device: "cpu" });
  scope(() => {
    const deviation = frozenValues(model.head).square().mean().sqrt().item() * Math.sqrt(TINY.hidden);
    expect(deviation).toBeCloseTo(1, 1);
  });
  const prompt = { inputIds: Int32Array.of(1, 20, 30, 40), imageSlices: [], images: [] };
  const ids = new Set<number>();
  for (const seed of [1, 2, 3, 4]) {
    const sampling = { ...GREEDY, temperature: 1, seed };
    const steps = generateSteps(model, undefined, prompt, { sampling, maxNewTokens: 8, stopIds: [] });
    for (const step of steps) if (step.phase === "answer") ids.add(step.id);
  }
  expect(ids.size).toBeGreaterThan(16); // no token holds all the probability
  disposeModel(model);
});

test.each([
  [{ hidden: 66 }, /^--hidden is 66, which 2 x --heads = \d+ does not divide/],
  [{ kvHeads: 3 }, /^--heads is \d+, which --kv-heads = 3 /],
  [{ visionHeads: 5 }, /^--vision-hidden is \d+, which --vision-heads = 5 /],
])("%o does not fit the other sizes, and is refused by its flag", (wrong, told) => {
  expect(() => tinyConfig({ ...SMALL, ...wrong })).toThrow(told);
  expect(() => tinyConfig({ ...SMALL, ...wrong })).toThrow(UserError);
});

test("a folder that holds something, such as a real model, is left alone", () => {
  const folder = join(root, "taken");
  mkdirSync(folder);
  writeFileSync(join(folder, "config.json"), "{}");
  expect(() => writeTinyCheckpoint(folder, SMALL)).toThrow("taken is not an empty folder.");
  expect(readdirSync(folder)).toEqual(["config.json"]);
});

test("a folder that cannot be made is an error that names it", () => {
  const blocked = join(golden("tiny/config.json"), "inside");
  expect(() => writeTinyCheckpoint(blocked, SMALL)).toThrow(/config\.json is a file, and should be a folder/);
  expect(() => writeTinyCheckpoint(blocked, SMALL)).toThrow(UserError);
});
