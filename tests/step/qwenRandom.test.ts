/** Qwen-VL checkpoints of random sizes, with their towers, beside plain autograd. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, it } from "vitest";
import type { PatchPicture } from "../../src/data/pictures/patches/patchPixels.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import type { Deepstack } from "../../src/models/deepstack.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import { embedText } from "../../src/models/inputRows.ts";
import type { PatchTowerWeights } from "../../src/models/patchTower/towerWeights.ts";
import { axesOf, type Qwen2_5VlConfig } from "../../src/models/qwen2_5_vl/spec.ts";
import { tensors as tensorsOfQwen2_5 } from "../../src/models/qwen2_5_vl/tensors.ts";
import { interleavedAxes, type Qwen3VlConfig } from "../../src/models/qwen3_vl/spec.ts";
import { tensors as tensorsOfQwen3 } from "../../src/models/qwen3_vl/tensors.ts";
import type { Model } from "../../src/models/weights.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { Policy } from "../../src/step/policy.ts";
import { cat } from "../../src/torch/create.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import { plainTower } from "../helpers/plainTower.ts";
import { expectPlainStep, writeRandomCheckpoint } from "../helpers/randomCheckpoint.ts";
import { randomPatchBatch, smallQwen, smallQwen3 } from "../helpers/randomPatches.ts";

const root = mkdtempSync(join(tmpdir(), "lorafit-qwen-random-"));
afterAll(() => rmSync(root, { recursive: true }));

/** Policies that any sizes allow. */
const POLICIES = [
  () => ({}),
  ({ kvHeads: headGroups }: ModelConfig) => ({
    ...{ headGroups, attentionInput: "recomputed", mlpTileTokens: 512, visionBatchTiles: 1 },
  }),
  () => ({ attention: "products", reuseAttention: false }),
  ({ layers: count }: ModelConfig) => ({
    ...{ layers: [{ count, boundary: "host" }], weights: { source: "streamed" } },
    ...{ vision: "host", head: "host", embeddings: "host" },
  }),
];

const sizes = fc.record({
  tied: fc.boolean(),
  /** Whether config.json is that of transformers 5: decoder in text_config, with rope_parameters. */
  isNewer: fc.boolean(),
  halfHidden: fc.integer({ min: 1, max: 20 }),
  layers: fc.integer({ min: 1, max: 4 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  queries: fc.integer({ min: 1, max: 3 }),
  /** Pairs of a head that turn with time, height and width. */
  sections: fc.tuple(
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 0, max: 3 }),
    fc.integer({ min: 0, max: 3 }),
  ),
  ffn: fc.integer({ min: 1, max: 40 }),
  tower: fc.record({
    heads: fc.integer({ min: 1, max: 3 }),
    quarterHead: fc.integer({ min: 1, max: 3 }),
    layers: fc.integer({ min: 1, max: 5 }),
    ffn: fc.integer({ min: 1, max: 30 }),
    /** Layers with features for the decoder, or with attention over the whole picture. */
    marked: fc.uniqueArray(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
    windowTokens: fc.integer({ min: 1, max: 5 }),
    positionSide: fc.integer({ min: 1, max: 9 }),
  }),
  policy: fc.constantFrom(...POLICIES),
});

type Sizes = typeof sizes extends fc.Arbitrary<infer S> ? S : never;

const PICTURES = [
  [3, 2],
  [1, 4],
] as const;

let run = 0;

it("a checkpoint of Qwen3-VL of any sizes has the loss and gradients of plain autograd", () => {
  fc.assert(
    fc.property(sizes, (drawn) => {
      const config = qwen3Of(drawn);
      const tower = {
        num_position_embeddings: config.vision.positionSide ** 2,
        deepstack_visual_indexes: config.vision.deepstackLayers,
        hidden_act: "gelu_pytorch_tanh",
      };
      const json = configJson(config, drawn, tower);
      check(config, drawn, json, tensorsOfQwen3(config));
    }),
    { numRuns: 20 },
  );
});

it("a checkpoint of Qwen2.5-VL of any sizes has the loss and gradients of plain autograd", () => {
  fc.assert(
    fc.property(sizes, (drawn) => {
      const config = qwen2_5Of(drawn);
      const { windowPixels, fullAttention } = config.vision;
      const tower = { window_size: windowPixels, fullatt_block_indexes: fullAttention, hidden_act: "silu" };
      check(config, drawn, configJson(config, drawn, tower), tensorsOfQwen2_5(config));
    }),
    { numRuns: 20 },
  );
});

function check(
  config: Qwen3VlConfig | Qwen2_5VlConfig,
  drawn: Sizes,
  json: object,
  all: ReturnType<typeof tensorsOfQwen3>,
): void {
  const folder = join(root, `${run++}`);
  const { patchPixels, mergeSide, minPixels, maxPixels, mean, std } = config.pictures;
  const preprocessor = {
    ...{ patch_size: patchPixels, merge_size: mergeSide, image_mean: mean, image_std: std },
    ...{ min_pixels: minPixels, max_pixels: maxPixels },
  };
  writeRandomCheckpoint(folder, { "config.json": json, "preprocessor_config.json": preprocessor }, all);
  const batch = randomPatchBatch(config, [{ textTokens: 30, pictures: PICTURES }, { textTokens: 9 }]);
  expectPlainStep(folder, batch, Policy.parse(drawn.policy(config)), {
    config,
    plainInput: (model) => plainInput(model, batch),
  });
}

function qwen3Of({ tied, tower, sections, ...drawn }: Sizes): Qwen3VlConfig {
  const { heads, quarterHead, marked, windowTokens: _, ...vision } = tower;
  const headDim = 2 * sections.reduce((sum, pairs) => sum + pairs, 0);
  return smallQwen3({
    ...{ hidden: 2 * drawn.halfHidden, layers: drawn.layers, ffn: drawn.ffn, tiedHead: tied },
    ...{ kvHeads: drawn.kvHeads, heads: drawn.kvHeads * drawn.queries, headDim },
    axisOfPair: interleavedAxes(sections),
    vision: {
      ...vision,
      ...{ heads, hidden: 4 * heads * quarterHead },
      deepstackLayers: ascending(marked, vision.layers).slice(0, drawn.layers),
    },
  });
}

/** A head's dims are the hidden size by the number of heads. */
function qwen2_5Of({ tied, tower, sections, ...drawn }: Sizes): Qwen2_5VlConfig {
  const { heads: towerHeads, quarterHead, marked, windowTokens, positionSide: _, ...vision } = tower;
  const headDim = 2 * sections.reduce((sum, pairs) => sum + pairs, 0);
  const heads = drawn.kvHeads * drawn.queries;
  return smallQwen({
    ...{ hidden: heads * headDim, layers: drawn.layers, ffn: drawn.ffn, tiedHead: tied },
    ...{ kvHeads: drawn.kvHeads, heads, headDim },
    axisOfPair: axesOf(sections),
    vision: {
      ...vision,
      ...{ heads: towerHeads, hidden: 4 * towerHeads * quarterHead, windowPixels: 28 * windowTokens },
      fullAttention: ascending(marked, vision.layers),
    },
    ...{ pictures: { ...smallQwen().pictures, windowPixels: 28 * windowTokens } },
  });
}

function ascending(marked: readonly number[], layers: number): number[] {
  return marked.filter((layer) => layer < layers).sort((one, other) => one - other);
}

/** Returns the decoder's input, (T, C), and the features for its first layers, by plain operators. */
function plainInput(model: Model, { inputIds, imageSlices, images }: MicroBatch): [Tensor, Deepstack?] {
  const hidden = embedText(model, inputIds);
  const towers = imageSlices.map(({ start, end, image }) => {
    const picture = images[image] as unknown as PatchPicture;
    const config = model.config as Qwen3VlConfig | Qwen2_5VlConfig;
    const [tokens, ...features] = plainTower(model.vision as PatchTowerWeights, config, picture);
    rowsOf(hidden, { start, end }).copy_(tokens!);
    return features;
  });
  const layers = towers[0]!.map((_, layer) =>
    cat(
      towers.map((features) => features[layer]!),
      0,
    ).unsqueeze(0),
  );
  return layers.length > 0 ? [hidden, { values: cat(layers, 0), slices: imageSlices }] : [hidden];
}

function configJson(
  config: Qwen3VlConfig | Qwen2_5VlConfig,
  { isNewer, sections, tied }: Sizes,
  tower: object,
): object {
  const { vision, family } = config;
  const isQwen3 = family === "qwen3_vl";
  const rope = { mrope_section: sections, ...(isQwen3 && { mrope_interleaved: true }) };
  const text = {
    ...{ hidden_size: config.hidden, num_hidden_layers: config.layers, intermediate_size: config.ffn },
    ...{ num_attention_heads: config.heads, num_key_value_heads: config.kvHeads, vocab_size: config.vocab },
    ...(isQwen3 && { head_dim: config.headDim, attention_bias: false }),
    ...{ max_position_embeddings: config.maxPositions, rms_norm_eps: config.rmsEps },
    ...{ bos_token_id: config.bosId, eos_token_id: config.eosIds[0], tie_word_embeddings: tied },
    ...(isNewer
      ? { rope_parameters: { rope_theta: config.ropeTheta, rope_type: "default", ...rope } }
      : { rope_theta: config.ropeTheta, rope_scaling: { ...rope, type: isQwen3 ? "default" : "mrope" } }),
  };
  return {
    model_type: family,
    ...(isNewer || isQwen3 ? { text_config: text } : text),
    ...(isNewer && { tie_word_embeddings: tied }),
    vision_config: {
      ...{ depth: vision.layers, hidden_size: vision.hidden, num_heads: vision.heads },
      ...{ intermediate_size: vision.ffn, out_hidden_size: config.hidden },
      ...{ patch_size: vision.patchPixels, spatial_merge_size: vision.mergeSide, temporal_patch_size: 2 },
      ...tower,
    },
  };
}
