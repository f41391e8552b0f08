import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { generate } from "../../src/models/generation/generate.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import { embedText, placeImage_ } from "../../src/models/inputRows.ts";
import { disposeLora, zeroGradients } from "../../src/models/lora.ts";
import { ON_DEVICE } from "../../src/models/places.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { Policy, placesOf, ploraOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { dispose, keep, scope, type Tensor } from "../../src/torch/tensor.ts";
import { moveModel_ } from "../helpers/moveModel.ts";
import {
  randomBatch,
  randomLora,
  randomModel,
  relativeDifference,
  runToEnd,
  smallConfig,
} from "../helpers/randomModel.ts";
import { referenceStep } from "../helpers/reference.ts";

const config = smallConfig({ layers: 3, bias: true });
const batch = randomBatch(config, [{ textTokens: 41, images: 1 }, { textTokens: 130 }]);
const folder = mkdtempSync(join(tmpdir(), "lorafit-biases-"));
afterAll(() => rmSync(folder, { recursive: true }));

const POLICIES: Record<string, unknown> = {
  default: {},
  "in groups and tiles": { headGroups: 2, mlpTileTokens: 512, attentionInput: "recomputed" },
  "attention by products": { attention: "products", reuseAttention: false },
  "all kept": { layers: [{ count: 3, keep: "all" }] },
  "PLoRA merged": { plora: "merged" },
  "PLoRA folded": { plora: "folded" },
  "weights streamed": { weights: { source: "streamed" }, layers: [{ count: 3, boundary: "host" }] },
};

/** Returns the decoder's input, (T, C). */
function decoderInput(model: Model): Tensor {
  const hidden = embedText(model, batch.inputIds);
  for (const { start, end, image } of batch.imageSlices)
    runToEnd(placeImage_(rowsOf(hidden, { start, end }), model, batch.images[image]!, 4));
  return hidden;
}

describe("biases of attention's linears", () => {
  const lora = randomLora(config, { dtype: "float64" });
  const models = { apart: randomModel(config), folded: randomModel(config, { folded: true }) };
  const reference = keep(scope(() => referenceStep(models.apart, lora, batch, decoderInput(models.apart))));
  afterAll(() => {
    dispose(reference);
    disposeLora(lora);
    for (const model of Object.values(models)) disposeModel(model);
  });

  it.each(Object.keys(POLICIES))("have the loss and gradients of plain autograd: %s", (name) => {
    const policy = Policy.parse(POLICIES[name]);
    const model = ploraOf(policy).folded ? models.folded : models.apart;
    moveModel_(model, placesOf(policy));
    zeroGradients(lora);
    const { loss } = runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
    moveModel_(model, ON_DEVICE);
    expect(Math.abs(loss - reference.loss)).toBeLessThan(1e-9);
    for (const [module, { a, b }] of lora.modules) {
      expect(relativeDifference(a.gradient!, reference.gradients.get(`${module}.a`)!), module).toBeLessThan(
        1e-9,
      );
      expect(relativeDifference(b.gradient!, reference.gradients.get(`${module}.b`)!), module).toBeLessThan(
        1e-9,
      );
    }
  });

  it("change what the model computes", () => {
    const { loss } = scope(() => {
      const linears = models.apart.layers.map((layer) => ({
        ...layer,
        linears: Object.fromEntries(
          Object.entries(layer.linears).map(([name, linear]) => [name, { ...linear, bias: undefined }]),
        ),
      }));
      return runToEnd(
        trainStep({ ...models.apart, layers: linears }, lora, batch, Policy.parse({}), { lossScale: 1 }),
      );
    });
    expect(Math.abs(loss - reference.loss)).toBeGreaterThan(1e-3);
  });
});

describe("a checkpoint with biases", () => {
  const small = {
    ...TINY,
    hidden: 64,
    heads: 4,
    layers: 2,
    ffn: 96,
    vocab: 128,
    visionLayers: 1,
    bias: true,
  };

  it("is read with them, and answers a token at a time as it does all at once", async () => {
    const checkpoint = join(folder, "tiny");
    writeTinyCheckpoint(checkpoint, small);
    const model = loadModel(checkpoint, { dtype: "float32", device: "cpu" });
    expect(model.config).toMatchObject({ bias: true });
    const { linears } = model.layers[1]!;
    expect(Object.entries(linears).map(([name, { bias }]) => [name, bias?.shape])).toEqual([
      ["attention.wqkv", [(4 + 2 * 2) * 16]],
      ["attention.wo", [64]],
      ["feed_forward.w1", undefined],
      ["feed_forward.w2", undefined],
      ["feed_forward.w3", undefined],
    ]);
    const answer = async (ids: readonly number[], maxNewTokens: number): Promise<number[]> => {
      const prompt = { inputIds: Int32Array.from([1, 5, 9, ...ids]), imageSlices: [], images: [] };
      return (await generate(model, undefined, prompt, { sampling: GREEDY, maxNewTokens, stopIds: [] })).ids;
    };
    const ids = await answer([], 4);
    for (let count = 1; count < ids.length; count++)
      expect(await answer(ids.slice(0, count), 1)).toEqual([ids[count]]);
    disposeModel(model);
  });

  it("without the tensors of its biases is refused by their names", () => {
    const checkpoint = join(folder, "missing");
    writeTinyCheckpoint(checkpoint, { ...small, bias: false });
    writeBias(checkpoint);
    expect(() => loadModel(checkpoint, { dtype: "float32", device: "cpu" })).toThrow(/attention\.wqkv\.bias/);
  });
});

/** Claims biases in a checkpoint's config.json. */
function writeBias(checkpoint: string): void {
  const file = join(checkpoint, "config.json");
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), bias: true }));
}
