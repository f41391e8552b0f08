/** Further families have the loss and gradients of plain autograd under every policy of the shared table. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { officialTargets, pictureFormOf } from "../../src/models/families.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import { disposeLora, zeroGradients } from "../../src/models/lora.ts";
import { ON_DEVICE } from "../../src/models/places.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { batchOf } from "../../src/plan/dryRun/batchShapes.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Policy, placesOf, ploraOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { getThreads, memoryStats, setThreads } from "../../src/torch/device.ts";
import { dispose, keep, scope } from "../../src/torch/tensor.ts";
import { decoderInput } from "../helpers/hiddenStates.ts";
import { measuredStep } from "../helpers/measuredStep.ts";
import { moveModel_ } from "../helpers/moveModel.ts";
import { POLICIES } from "../helpers/policyCases.ts";
import { randomLora, randomModel, relativeDifference, runToEnd } from "../helpers/randomModel.ts";
import { randomPatchBatch, smallQwen, smallQwen3 } from "../helpers/randomPatches.ts";
import { RMS_TOWER, randomTileBatch, smallInternVl } from "../helpers/randomTiles.ts";
import { referenceStep } from "../helpers/reference.ts";
import { batch2_5, small2_5, smallWholePictures, wholePictureBatch } from "../helpers/xcomposers.ts";

/** A model of a family, with what a step and a plan read. */
interface Row {
  config: ModelConfig;
  batch: MicroBatch;
  /** Limit of the pictures that plans assume: more than one batch of units, of different sizes. */
  pictureLimit: number;
}

function qwen(overrides: Parameters<typeof smallQwen>[0] = {}): Row {
  const config = smallQwen(overrides);
  const pictures = [
    [3, 5],
    [2, 2],
  ] as const;
  const batch = randomPatchBatch(config, [
    { textTokens: 41, pictures },
    { textTokens: 7, labelTokens: 1 },
    { textTokens: 530, pictures: [[1, 9]] },
  ]);
  return { config, batch, pictureLimit: 300 * 28 ** 2 };
}

function qwen3(overrides: Parameters<typeof smallQwen3>[0] = {}): Row {
  const config = smallQwen3(overrides);
  const pictures = [
    [3, 5],
    [2, 2],
  ] as const;
  const batch = randomPatchBatch(config, [
    { textTokens: 41, pictures },
    { textTokens: 7, labelTokens: 1 },
    { textTokens: 530, pictures: [[1, 9]] },
  ]);
  return { config, batch, pictureLimit: 300 * 32 ** 2 };
}

function internVl(overrides: Parameters<typeof smallInternVl>[0] = {}): Row {
  const config = smallInternVl(overrides);
  const pictures = [
    [2, 3],
    [1, 1],
  ] as const;
  const batch = randomTileBatch(config, [
    { textTokens: 41, pictures },
    { textTokens: 7, labelTokens: 1 },
    { textTokens: 530, pictures: [[2, 1]] },
  ]);
  return { config, batch, pictureLimit: 5 };
}

function wholePictures(): Row {
  const config = smallWholePictures();
  const pictures = [undefined, undefined];
  const batch = wholePictureBatch(config, [
    { textTokens: 41, pictures },
    { textTokens: 7, labelTokens: 1 },
    { textTokens: 530, pictures: [undefined] },
  ]);
  return { config, batch, pictureLimit: 1 };
}

function xcomposer2_5(): Row {
  const config = small2_5();
  const batch = batch2_5(config, [
    { textTokens: 41, pictures: [[1, 1]] },
    { textTokens: 7, labelTokens: 1 },
    { textTokens: 200 },
  ]);
  return { config, batch, pictureLimit: 1 };
}

/** The families, with sizes that differ from one another in all that a family may decide. */
const MODELS: Record<string, Row> = {
  "XComposer2-VL": wholePictures(),
  "XComposer2.5": xcomposer2_5(),
  "Qwen2.5-VL": qwen(),
  "Qwen2.5-VL with a tied head": qwen({
    tiedHead: true,
    heads: 6,
    kvHeads: 2,
    headDim: 12,
    axisOfPair: [0, 0, 1, 1, 2, 2],
  }),
  "heads wider than the hidden states, with norms of queries and keys": qwen({
    hasHeadNorms: true,
    heads: 4,
    kvHeads: 2,
    headDim: 12,
    axisOfPair: [0, 1, 2, 0, 1, 2],
  }),
  "Qwen3-VL, with features for two layers": qwen3(),
  "Qwen3-VL, with features for all layers": qwen3({
    ...{ layers: 4, heads: 6, kvHeads: 2, tiedHead: true },
    vision: { layers: 5, deepstackLayers: [0, 1, 3, 4] },
  }),
  InternVL3: internVl(),
  "InternVL3.5 with the tower of the 38B": internVl({
    ...{ qkvBias: false, hasHeadNorms: true, heads: 6, kvHeads: 2, headDim: 12, tiedHead: true },
    vision: RMS_TOWER,
  }),
};

describe.each(Object.entries(MODELS))("%s", (_, { config, batch, pictureLimit }) => {
  const models = { apart: randomModel(config), folded: randomModel(config, { folded: true }) };
  const lora = randomLora(config, { dtype: "float64" });
  const reference = keep(
    scope(() => {
      const { hidden, deepstack } = decoderInput(models.apart, batch);
      const result = referenceStep(models.apart, lora, batch, hidden, deepstack);
      dispose(deepstack); // no scope owns it
      return result;
    }),
  );
  afterAll(() => {
    dispose(reference);
    disposeLora(lora);
    for (const model of Object.values(models)) disposeModel(model);
  });

  it.each(Object.keys(POLICIES))("has the loss and gradients of plain autograd: %s", (name) => {
    const policy = Policy.parse(POLICIES[name]);
    const model = ploraOf(policy).folded ? models.folded : models.apart;
    moveModel_(model, placesOf(policy));
    zeroGradients(lora);
    const before = memoryStats("cpu").liveBytes;
    const { loss } = runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
    expect(memoryStats("cpu").liveBytes).toBe(before);
    moveModel_(model, ON_DEVICE);
    expect(Math.abs(loss - reference.loss)).toBeLessThan(1e-9);
    for (const [module, { a, b }] of lora.modules) {
      const [gradA, gradB] = ["a", "b"].map((factor) => reference.gradients.get(`${module}.${factor}`)!);
      expect(relativeDifference(a.gradient!, gradA!), module).toBeLessThan(1e-9);
      expect(relativeDifference(b.gradient!, gradB!), module).toBeLessThan(1e-9);
    }
  });

  describe("a plan", () => {
    const threads = getThreads();
    beforeAll(() => setThreads(1)); // a plan counts the scratch of all threads, which need not work at once
    afterAll(() => setThreads(threads));

    // a shared base is planned for several ranks: tests/ranks
    const ofOneProcess = Object.keys(POLICIES).filter((name) => !name.includes("shared"));
    it.each(ofOneProcess)("has the memory of a step to the byte: %s", (name) => {
      const policy = Policy.parse(POLICIES[name]);
      const own = { rank: 4, dropout: 0, targets: officialTargets(config) };
      const sizes = { maxLength: 700, pictureLimit, imageShare: undefined, batchSize: 1 };
      const configuration: Configuration = {
        ...{ model: config, dtype: "float32", lora: own, policy, target: "cpu", mapsWeights: false },
        batch: batchOf({ ...own, ...sizes }, pictureFormOf(config)),
      };
      const { device, host, phases } = dryRun(configuration);
      const tower = phases.find(({ name }) => name === "vision")?.devicePeakBytes ?? 0; // without a picture that fits
      const planned = { device: device.peakBytes, host: host.peakBytes, vision: tower };
      expect(planned).toEqual(measuredStep(configuration));
    });
  });

  it.each(["int8", "nf4", "fp8"] as const)(
    "streams a base in %s with the gradients of a resident one",
    (base) => {
      const model = randomModel(config, { dtype: "float32", base, visionBase: base });
      const own = randomLora(config);
      const [resident, streamed] = [{}, { weights: { source: "streamed" }, vision: "host" }].map((given) => {
        const policy = Policy.parse(given);
        moveModel_(model, placesOf(policy));
        zeroGradients(own);
        runToEnd(trainStep(model, own, batch, policy, { lossScale: 1 }));
        return keep(scope(() => [...own.modules.values()].map(({ a }) => a.gradient!.clone())));
      });
      for (const [index, gradient] of resident!.entries())
        expect(relativeDifference(streamed![index]!, gradient)).toBeLessThan(1e-6);
      dispose([resident, streamed]);
      disposeLora(own);
      disposeModel(model);
    },
  );
});
