/** A family unlike the first one goes through plans, steps and answers by its own record alone. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { officialTargets, pictureFormOf, positionsOf } from "../../src/models/families.ts";
import { generate } from "../../src/models/generation/generate.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import { embedText, placeImage_ } from "../../src/models/inputRows.ts";
import { disposeLora, zeroGradients } from "../../src/models/lora.ts";
import { ON_DEVICE } from "../../src/models/places.ts";
import { disposeModel, type Model } from "../../src/models/weights.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { batchOf } from "../../src/plan/dryRun/batchShapes.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Planner, type SizedWorkload } from "../../src/plan/planner.ts";
import { solve } from "../../src/plan/search.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { speedOf } from "../../src/plan/time/stepTime.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { getThreads, setThreads } from "../../src/torch/device.ts";
import { dispose, keep, scope, type Tensor } from "../../src/torch/tensor.ts";
import { measuredStep } from "../helpers/measuredStep.ts";
import { moveModel_ } from "../helpers/moveModel.ts";
import { randomLora, randomModel, relativeDifference, runToEnd } from "../helpers/randomModel.ts";
import { referenceStep } from "../helpers/reference.ts";
import { addToyFamily, patches, randomPatches, toyConfig } from "../helpers/toyFamily.ts";

addToyFamily();
const config = toyConfig();
const form = pictureFormOf(config);

let seed = 1;
const random = (): number => {
  seed = (seed * 48_271) % 2_147_483_647;
  return seed / 2_147_483_647;
};

/** Two packed samples: text, a picture, text; and text alone. */
const batch = batchOfSamples([
  { before: 4, picture: randomPatches(5, 3, random), after: 30 },
  { before: 70, picture: undefined, after: 20 },
]);

interface Sample {
  before: number;
  picture: ReturnType<typeof randomPatches> | undefined;
  after: number;
}

function batchOfSamples(samples: readonly Sample[]): MicroBatch {
  const loaded = samples.map(({ before, picture, after }, index) => {
    const ids = (length: number): number[] => Array.from({ length }, () => 3 + Math.floor(random() * 90));
    const inputIds = Int32Array.from([...ids(before), ...(picture ? [IMAGE_SLOT] : []), ...ids(after)]);
    const labels = inputIds.map((id, at) => (at < inputIds.length - after + 5 ? -100 : id));
    const images = picture ? [{ path: "", limit: 1024 }] : [];
    return {
      sample: { source: { file: "drawn", index }, inputIds, labels, images },
      images: picture ? [picture] : [],
    };
  });
  return layoutBatch(loaded) as MicroBatch;
}

/** Returns the decoder's input, (T, C). */
function decoderInput(model: Model): Tensor {
  const hidden = embedText(model, batch.inputIds);
  for (const { start, end, image } of batch.imageSlices)
    runToEnd(placeImage_(rowsOf(hidden, { start, end }), model, batch.images[image]!, 4));
  return hidden;
}

const POLICIES: Record<string, unknown> = {
  default: {},
  "in groups and tiles": {
    headGroups: 2,
    mlpTileTokens: 512,
    attentionInput: "recomputed",
    visionBatchTiles: 2,
  },
  "all kept": { layers: [{ count: 3, keep: "all" }] },
  "PLoRA merged, where there is none": { plora: "merged" },
  "everything on the host": {
    ...{ weights: { source: "streamed" }, embeddings: "host", head: "host", vision: "host" },
    layers: [{ count: 3, boundary: "host" }],
  },
};

describe("a step of a second family", () => {
  const model = randomModel(config);
  const lora = randomLora(config, { dtype: "float64" });
  const reference = keep(scope(() => referenceStep(model, lora, batch, decoderInput(model))));
  afterAll(() => {
    dispose(reference);
    disposeLora(lora);
    disposeModel(model);
  });

  it("has factors for each of its linears", () => {
    expect([...lora.modules.keys()].slice(0, 7)).toEqual(
      ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
        .concat(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"])
        .map((name) => `layers.0.${name}`),
    );
  });

  it.each(Object.keys(POLICIES))("has the loss and gradients of plain autograd: %s", (name) => {
    const policy = Policy.parse(POLICIES[name]);
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

  it("places a picture by rows and columns, and the text after it beyond both", () => {
    const { axes, values } = positionsOf(config, batch);
    const rows = batch.inputIds.length;
    const at = (row: number): number[] => [0, 1, 2].map((axis) => values[axis * rows + row]!);
    expect(axes).toBe(3);
    expect([3, 4, 5, 7, 18, 19].map(at)).toEqual([
      [3, 3, 3],
      [4, 4, 4],
      [4, 4, 5],
      [4, 5, 4],
      [4, 8, 6],
      [9, 9, 9], // 4 + the larger of 5 rows and 3 columns
    ]);
    expect(at(49)).toEqual([0, 0, 0]); // the second sample starts anew
  });
});

describe("a plan of a second family", () => {
  const lora = { rank: 4, dropout: 0, targets: officialTargets(config) };
  const workload: SizedWorkload = {
    ...lora,
    ...{ maxLength: 700, pictureLimit: 6400, imageShare: undefined, batchSize: 1 },
  };
  const unlimited = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };

  const threads = getThreads();
  beforeAll(() => setThreads(1)); // a plan counts the scratch of all threads, which need not work at once
  afterAll(() => setThreads(threads));

  it.each(Object.keys(POLICIES))("is the memory of its step to the byte: %s", (name) => {
    const policy = Policy.parse(POLICIES[name]);
    const configuration: Configuration = {
      ...{ model: config, dtype: "float32", lora, policy, target: "cpu", mapsWeights: false },
      batch: batchOf(workload, form),
    };
    const run = dryRun(configuration);
    const planned = { device: run.device.peakBytes, host: run.host.peakBytes };
    expect(measuredStep(configuration)).toMatchObject(planned);
  });

  it("assumes the largest picture that its own limit allows", () => {
    expect(batchOf(workload, form)).toMatchObject({ pictures: [patches(1, 400)], labelTokens: 299 });
  });

  it("folds no branch into the weights, for there is none", () => {
    const planned = { model: config, dtype: "float32", target: "cpu", mapsWeights: false } as const;
    const planner = new Planner(planned, speedOf(findDevice("rtx-4090")));
    expect(planner.folds(Policy.parse({}))).toBe(false);
  });

  it("solves for its own limit", () => {
    const planned = { model: config, dtype: "float32", target: "cpu", mapsWeights: false } as const;
    const planner = new Planner(planned, speedOf(findDevice("rtx-4090")));
    const policy = Policy.parse({});
    const { budgetedBytes } = planner.plan(workload, policy, unlimited).run;
    const limits = { ...unlimited, budgetBytes: Math.round(1.3 * budgetedBytes) };
    const { solved, plan } = solve(planner, "hd-num", workload, limits, { policy }, 20_000)!;
    expect(solved).toBeGreaterThan(workload.pictureLimit);
    expect(plan.workload.maxLength).toBe(form.largest(solved).tokens + 256);
    expect(plan.fits).toBe(true);
  });
});

describe("an answer of a second family", () => {
  it("continues behind a picture token by token as all at once", async () => {
    const model = randomModel(config, { dtype: "float32" });
    const answer = async (more: readonly number[], maxNewTokens: number): Promise<number[]> => {
      const { inputIds, images } = batch;
      const prompt = {
        inputIds: Int32Array.from([...inputIds.slice(0, 30), ...more]),
        ...{ imageSlices: batch.imageSlices.slice(0, 1), images },
      };
      return (await generate(model, undefined, prompt, { sampling: GREEDY, maxNewTokens, stopIds: [] })).ids;
    };
    const ids = await answer([], 5);
    for (let made = 1; made < ids.length; made++)
      expect(await answer(ids.slice(0, made), 1)).toEqual([ids[made]]);
    disposeModel(model);
  });
});
