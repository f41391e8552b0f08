/** InternVL checkpoints of random sizes, with both towers and all decoders, beside plain autograd. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import type { TiledPicture } from "../../src/data/pictures/internvlTiles/tilePixels.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { generate, type Prompt } from "../../src/models/generation/generate.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import { embedText } from "../../src/models/inputRows.ts";
import type { InternVlConfig } from "../../src/models/internvl/spec.ts";
import { tensors } from "../../src/models/internvl/tensors.ts";
import type { TowerWeights } from "../../src/models/internvl/visionWeights.ts";
import { disposeLora } from "../../src/models/lora.ts";
import { disposeModel, type Model } from "../../src/models/weights.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { Policy } from "../../src/step/policy.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import { plainTileTower } from "../helpers/plainTileTower.ts";
import { expectPlainStep, writeRandomCheckpoint } from "../helpers/randomCheckpoint.ts";
import { randomLora, randomModel } from "../helpers/randomModel.ts";
import { RMS_TOWER, randomTileBatch, smallInternVl } from "../helpers/randomTiles.ts";
import { answered, engineOver } from "../helpers/serving.ts";

const root = mkdtempSync(join(tmpdir(), "lorafit-internvl-random-"));
afterAll(() => rmSync(root, { recursive: true }));

const DECODERS = {
  qwen2: { qkvBias: true },
  qwen3: { qkvBias: false, hasHeadNorms: true },
  llama: { qkvBias: false },
} as const;

type Decoder = keyof typeof DECODERS;

const sizes = fc.record({
  decoder: fc.constantFrom<Decoder[]>("qwen2", "qwen3", "qwen3", "llama"),
  isLarge: fc.boolean(),
  /** Whether config.json and names are those of transformers 5. */
  isNewer: fc.boolean(),
  tied: fc.boolean(),
  hidden: fc.integer({ min: 1, max: 20 }).map((half) => 2 * half),
  layers: fc.integer({ min: 1, max: 3 }),
  kvHeads: fc.constantFrom(2, 4),
  queries: fc.integer({ min: 1, max: 3 }),
  headPairs: fc.integer({ min: 1, max: 8 }),
  ffn: fc.integer({ min: 1, max: 40 }),
  tower: fc.record({
    heads: fc.integer({ min: 1, max: 3 }),
    headDim: fc.integer({ min: 1, max: 10 }),
    layers: fc.integer({ min: 1, max: 3 }),
    ffn: fc.integer({ min: 1, max: 30 }),
    side: fc.integer({ min: 1, max: 3 }),
  }),
  policy: fc.constantFrom<object[]>(
    {},
    { headGroups: 2, attentionInput: "recomputed", mlpTileTokens: 512, visionBatchTiles: 1 },
    { attention: "products", reuseAttention: false },
  ),
});

type Sizes = typeof sizes extends fc.Arbitrary<infer S> ? S : never;

it("a checkpoint of any sizes has the loss and gradients of plain autograd", () => {
  let run = 0;
  fc.assert(
    fc.property(sizes, (drawn) => {
      const config = configOf(drawn);
      const folder = join(root, `${run++}`);
      writeCheckpoint(folder, config, drawn);
      const pictures = [
        [1, 2],
        [1, 1],
      ] as const;
      const batch = randomTileBatch(config, [{ textTokens: 30, pictures }, { textTokens: 9 }]);
      expectPlainStep(folder, batch, Policy.parse(drawn.policy), {
        config: { ...config, tiedHead: drawn.tied },
        plainInput: (model) => [plainInput(model, batch)],
      });
    }),
    { numRuns: 25 },
  );
});

describe("InternVL3.5 with the tower of the 38B", () => {
  const config = smallInternVl({
    ...{ qkvBias: false, hasHeadNorms: true, heads: 6, kvHeads: 2, headDim: 12 },
    vision: RMS_TOWER,
  });
  const model = randomModel(config, { dtype: "float32" });
  const lora = randomLora(config);
  afterAll(() => {
    disposeLora(lora);
    disposeModel(model);
  });
  const greedy = { sampling: GREEDY, maxNewTokens: 12, stopIds: [] };

  it.each([undefined, lora])(
    "answers as if each token were the first after its own prompt",
    async (adapter) => {
      const prompt: Prompt = randomTileBatch(config, [{ textTokens: 9, pictures: [[1, 2]] }]);
      const { ids } = await generate(model, adapter, prompt, greedy);
      expect(new Set(ids).size).toBeGreaterThan(1);
      for (const known of ids.keys()) {
        const inputIds = Int32Array.of(...prompt.inputIds, ...ids.slice(0, known));
        const next = await generate(model, adapter, { ...prompt, inputIds }, { ...greedy, maxNewTokens: 1 });
        expect(next.ids).toEqual([ids[known]]);
      }
    },
  );

  it("answers the same from a server, beside others and with an adapter", async () => {
    const engine = engineOver({ model, loras: { lora } });
    const prompts = [5, 9, 14].map((textTokens) => randomTileBatch(config, [{ textTokens }]));
    await Promise.all(
      prompts.flatMap((prompt) =>
        [undefined, lora].map(async (adapter) => {
          const { ids } = await generate(model, adapter, prompt, greedy);
          const answer = await answered(engine, {
            prompt: { inputIds: prompt.inputIds, images: [] },
            ...{ maxNewTokens: 12, ignoreEos: true },
            ...(adapter && { model: "lora" }),
          });
          expect(answer.ids).toEqual(ids);
        }),
      ),
    );
    await engine.close();
  });
});

function configOf({ decoder, isLarge, hidden, layers, kvHeads, queries, headPairs, ffn, tower }: Sizes) {
  const { side, headDim, ...vision } = tower;
  return smallInternVl({
    ...DECODERS[decoder],
    ...{ hidden, layers, kvHeads, ffn, heads: kvHeads * queries },
    headDim: 2 * headPairs,
    vision: {
      ...vision,
      ...{ hidden: vision.heads * headDim, tilePixels: 28 * side },
      ...(isLarge && RMS_TOWER),
    },
  });
}

/** Returns the decoder's input, (T, C), by plain operators. */
function plainInput(model: Model, { inputIds, imageSlices, images }: MicroBatch): Tensor {
  const hidden = embedText(model, inputIds);
  for (const { start, end, image } of imageSlices)
    rowsOf(hidden, { start, end }).copy_(
      plainTileTower(
        model.vision as TowerWeights,
        model.config as InternVlConfig,
        images[image] as unknown as TiledPicture,
      ),
    );
  return hidden;
}

/** Writes random weights under the names that transformers gives them. */
function writeCheckpoint(folder: string, config: InternVlConfig, drawn: Sizes): void {
  const side = config.pictures.tilePixels;
  const files = {
    "config.json": configJson(config, drawn),
    "preprocessor_config.json": { size: { height: side, width: side }, max_patches: 12 },
  };
  const all = tensors({ ...config, tiedHead: drawn.tied });
  writeRandomCheckpoint(folder, files, all, drawn.isNewer ? inMemory : undefined);
}

function inMemory(name: string): string {
  if (name === "language_model.lm_head.weight") return "lm_head.weight";
  return `model.${name.replace(/^language_model\.model\./, "language_model.")}`;
}

function configJson(config: InternVlConfig, { decoder, isNewer, tied }: Sizes): object {
  const { vision } = config;
  const scaling = { factor: 2, rope_type: "dynamic" };
  return {
    ...{ model_type: "internvl", architectures: ["InternVLForConditionalGeneration"] },
    ...{ downsample_ratio: 0.5, image_seq_length: config.pictures.tileTokens, image_token_id: 3 },
    ...(isNewer && { tie_word_embeddings: tied, transformers_version: "5.24.0" }),
    text_config: {
      model_type: decoder,
      ...{ hidden_size: config.hidden, num_hidden_layers: config.layers, intermediate_size: config.ffn },
      ...{ num_attention_heads: config.heads, num_key_value_heads: config.kvHeads },
      ...{ head_dim: config.headDim, vocab_size: config.vocab, rms_norm_eps: config.rmsEps },
      ...{ max_position_embeddings: config.maxPositions, attention_bias: decoder === "qwen2" ? null : false },
      ...{ bos_token_id: config.bosId, eos_token_id: config.eosIds[0], tie_word_embeddings: tied },
      ...(isNewer
        ? { rope_parameters: { rope_theta: config.ropeTheta, ...scaling } }
        : { rope_theta: config.ropeTheta, rope_scaling: { ...scaling, type: "dynamic" } }),
    },
    vision_config: {
      model_type: "internvl_vision",
      ...{ hidden_size: vision.hidden, num_hidden_layers: vision.layers, intermediate_size: vision.ffn },
      ...{ num_attention_heads: vision.heads, layer_norm_eps: vision.eps, norm_type: vision.norm },
      ...{ image_size: [vision.tilePixels, vision.tilePixels], patch_size: [14, 14] },
      ...{ use_qk_norm: vision.qkNorm, attention_bias: vision.qkvBias, hidden_act: "gelu" },
    },
  };
}
