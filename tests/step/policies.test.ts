import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { embedText, placeImage_ } from "../../src/models/inputRows.ts";
import { disposeLora, zeroGradients } from "../../src/models/lora.ts";
import { ON_DEVICE } from "../../src/models/places.ts";
import { disposeModel, type Model } from "../../src/models/weights.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { Policy, placesOf, ploraOf } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { memoryStats } from "../../src/torch/device.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { dispose, keep, scope, type Tensor } from "../../src/torch/tensor.ts";
import { moveModel_ } from "../helpers/moveModel.ts";
import { POLICIES } from "../helpers/policyCases.ts";
import {
  randomBatch,
  randomLora,
  randomModel,
  relativeDifference,
  runToEnd,
  smallConfig,
} from "../helpers/randomModel.ts";
import { referenceStep } from "../helpers/reference.ts";

const config = smallConfig({ layers: 4 });
const models = modelsOf("float32");
const model = models.apart;
const lora = randomLora(config);
const batch = randomBatch(config, [
  { textTokens: 41, images: 2 },
  { textTokens: 7, labelTokens: 1 },
  { textTokens: 530 },
]);
let reference: ReturnType<typeof referenceStep>;

beforeAll(() => {
  scope(() => {
    reference = keep(referenceStep(model, lora, batch, decoderInput(model)));
  });
});

afterEach(() => {
  for (const each of Object.values(models)) moveModel_(each, ON_DEVICE);
});

afterAll(() => {
  dispose(reference);
  disposeLora(lora);
  disposeModels(models);
});

/** Weights as they are, and with PLoRA folded into them. */
interface Models {
  apart: Model;
  folded: Model;
}

function modelsOf(dtype: DType): Models {
  return {
    apart: randomModel(config, { dtype }),
    folded: randomModel(config, { dtype, folded: true }),
  };
}

function disposeModels({ apart, folded }: Models): void {
  disposeModel(apart);
  disposeModel(folded);
}

/** Returns the model that a policy needs, with its parts moved where the policy wants them. */
function modelFor(policy: Policy, { apart, folded }: Models = models): Model {
  const wanted = ploraOf(policy).folded ? folded : apart;
  moveModel_(wanted, placesOf(policy));
  return wanted;
}

/** Returns the decoder's input for the batch, (T, C). */
function decoderInput(of: typeof model): Tensor {
  const hidden = embedText(of, batch.inputIds);
  for (const { start, end, image } of batch.imageSlices)
    runToEnd(placeImage_(rowsOf(hidden, { start, end }), of, batch.images[image]!, 4));
  return hidden;
}

function gradients(): Map<string, Tensor> {
  return new Map(
    [...lora.modules].flatMap(
      ([name, { a, b }]) =>
        [
          [`${name}.a`, a.gradient!],
          [`${name}.b`, b.gradient!],
        ] as const,
    ),
  );
}

describe("trainStep", () => {
  it.each(Object.keys(POLICIES))(
    "has the loss and gradients of plain autograd over the whole model: %s",
    (name) => {
      const policy = Policy.parse(POLICIES[name]);
      const chosen = modelFor(policy);
      zeroGradients(lora);
      const beforeBytes = memoryStats("cpu").liveBytes;
      const hostBytes = memoryStats("cpu", "host").liveBytes;
      const result = runToEnd(trainStep(chosen, lora, batch, policy, { lossScale: 1 }));
      expect(Math.abs(result.loss - reference.loss)).toBeLessThan(1e-5);
      for (const [module, gradient] of gradients()) {
        expect(relativeDifference(gradient, reference.gradients.get(module)!), module).toBeLessThan(1e-5);
      }
      expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
      expect(memoryStats("cpu", "host").liveBytes).toBe(hostBytes);
    },
  );

  it.each(["default", "the smallest working set", "all of it"])(
    "accumulates bfloat16 gradients to their precision: %s",
    (name) => {
      const policy = Policy.parse({ ...(POLICIES[name] as object), gradients: "bf16" });
      moveModel_(model, placesOf(policy));
      const narrow = randomLora(config, { gradients: policy.gradients });
      runToEnd(trainStep(model, narrow, batch, policy, { lossScale: 1 }));
      for (const [module, { a, b }] of narrow.modules) {
        expect(a.gradient!.dtype).toBe("bfloat16");
        expect(relativeDifference(a.gradient!, reference.gradients.get(`${module}.a`)!), module).toBeLessThan(
          2 ** -7,
        );
        expect(relativeDifference(b.gradient!, reference.gradients.get(`${module}.b`)!), module).toBeLessThan(
          2 ** -7,
        );
      }
      disposeLora(narrow);
    },
  );

  it("is exact to 1e-9 in float64, under every policy", () => {
    const exactModels = modelsOf("float64");
    const exactLora = randomLora(config, { dtype: "float64" });
    const exact = keep(
      scope(() => referenceStep(exactModels.apart, exactLora, batch, decoderInput(exactModels.apart))),
    );
    for (const [name, given] of Object.entries(POLICIES)) {
      const policy = Policy.parse(given);
      zeroGradients(exactLora);
      runToEnd(trainStep(modelFor(policy, exactModels), exactLora, batch, policy, { lossScale: 1 }));
      for (const [module, { a, b }] of exactLora.modules) {
        expect(
          relativeDifference(a.gradient!, exact.gradients.get(`${module}.a`)!),
          `${name} ${module}`,
        ).toBeLessThan(1e-9);
        expect(
          relativeDifference(b.gradient!, exact.gradients.get(`${module}.b`)!),
          `${name} ${module}`,
        ).toBeLessThan(1e-9);
      }
    }
    dispose(exact);
    disposeLora(exactLora);
    disposeModels(exactModels);
  });

  it.each(["int8", "nf4", "fp8"] as const)(
    "streams a base in %s as it is, with the same gradients",
    (base) => {
      const narrowModel = randomModel(config, { dtype: "float32", base });
      const streaming = { weights: { source: "streamed" } };
      const policies = [{}, streaming, { ...streaming, plora: "merged" }].map((given) => Policy.parse(given));
      const [resident, streamed, merged] = policies.map((policy) => {
        moveModel_(narrowModel, placesOf(policy));
        zeroGradients(lora);
        runToEnd(trainStep(narrowModel, lora, batch, policy, { lossScale: 1 }));
        return keep(scope(() => [...gradients().values()].map((gradient) => gradient.clone())));
      });
      resident!.forEach((gradient, index) => {
        expect(relativeDifference(streamed![index]!, gradient)).toBeLessThan(1e-6);
        expect(relativeDifference(merged![index]!, gradient)).toBeLessThan(1e-5);
      });
      dispose([resident, streamed, merged]);
      disposeModel(narrowModel);
    },
  );

  it("draws the same dropout masks under every policy", () => {
    const dropping = { ...lora, dropout: 0.3 };
    let first: Map<string, Tensor> | undefined;
    for (const [name, given] of Object.entries(POLICIES)) {
      const policy = Policy.parse(given);
      zeroGradients(lora);
      runToEnd(trainStep(modelFor(policy), dropping, batch, policy, { lossScale: 1, dropoutSeed: 5n }));
      if (!first) {
        first = keep(
          scope(() => new Map([...gradients()].map(([module, gradient]) => [module, gradient.clone()]))),
        );
        for (const [module, gradient] of first) {
          if (module.endsWith("w2.a"))
            expect(relativeDifference(gradient, reference.gradients.get(module)!)).toBeGreaterThan(0.01);
        }
      }
      for (const [module, gradient] of gradients())
        expect(relativeDifference(gradient, first.get(module)!), `${name} ${module}`).toBeLessThan(1e-5);
    }
    dispose(first);
  });

  it("is as near in bfloat16 with PLoRA merged as apart, and nearly so where all rows see a weight rounded once more", () => {
    const half = modelsOf("bfloat16");
    const [apart, merged, folded] = (["apart", "merged", "folded"] as const).map((plora) => {
      zeroGradients(lora);
      const policy = Policy.parse({ plora });
      runToEnd(trainStep(modelFor(policy, half), lora, batch, policy, { lossScale: 1 }));
      const errors = [...gradients()].map(([module, gradient]) =>
        relativeDifference(gradient, reference.gradients.get(module)!),
      );
      return errors.reduce((sum, error) => sum + error, 0) / errors.length;
    });
    expect(merged).toBeLessThan(1.1 * apart!);
    expect(folded).toBeLessThan(1.25 * apart!);
    disposeModels(half);
  });

  it("gives the same for samples packed as for one by one", () => {
    const alone = [{ textTokens: 41, images: 2 }, { textTokens: 9 }];
    zeroGradients(lora);
    const packed = randomBatch(config, alone);
    const whole = runToEnd(
      trainStep(model, lora, packed, Policy.parse({}), { lossScale: packed.labelTokens }),
    );
    const sum = keep(
      scope(() => new Map([...gradients()].map(([name, gradient]) => [name, gradient.clone()]))),
    );
    zeroGradients(lora);
    let lossSum = 0;
    let row = 0;
    packed.sampleTokens.forEach((tokens) => {
      const cut = <A extends Int32Array>(array: A): A => array.slice(row, row + tokens) as A;
      const slices = packed.imageSlices.filter(({ start }) => start >= row && start < row + tokens);
      const single = {
        ...packed,
        inputIds: cut(packed.inputIds),
        targets: cut(packed.targets),
        sampleTokens: [tokens],
        imageSlices: slices.map(({ start, end, image }) => ({ start: start - row, end: end - row, image })),
        labelTokens: cut(packed.targets).filter((target) => target !== -100).length,
      };
      lossSum += runToEnd(
        trainStep(model, lora, single, Policy.parse({}), { lossScale: single.labelTokens }),
      ).lossSum;
      row += tokens;
    });
    expect(lossSum).toBeCloseTo(whole.lossSum, 3);
    for (const [name, gradient] of gradients())
      expect(relativeDifference(gradient, sum.get(name)!), name).toBeLessThan(1e-5);
    dispose(sum);
  });

  it("refuses a policy for which the model does not lie right", () => {
    const policy = Policy.parse({ head: "host" });
    expect(() => runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }))).toThrow(
      "wants head on the host",
    );
  });

  it("refuses a policy that folds PLoRA, or does not, where the model was loaded otherwise", () => {
    for (const [plora, wrong] of [
      ["folded", models.apart],
      ["merged", models.folded],
    ] as const) {
      const step = trainStep(wrong, lora, batch, Policy.parse({ plora }), { lossScale: 1 });
      expect(() => runToEnd(step)).toThrow(`the policy has PLoRA ${plora}`);
    }
  });

  it("frees everything when it is abandoned between two segments", () => {
    const policy = Policy.parse({
      layers: [{ count: 4, keep: "all" }],
      weights: { source: "streamed" },
      vision: "host",
    });
    moveModel_(model, placesOf(policy));
    const beforeBytes = memoryStats("cpu").liveBytes;
    for (let segments = 0; segments < 20; segments += 3) {
      const step = trainStep(model, lora, batch, policy, { lossScale: 1 });
      for (let segment = 0; segment <= segments; segment++) step.next();
      step.return(undefined as never);
      expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
    }
  });
});

describe("evalStep", () => {
  it.each(["merged", "folded"])("gives the loss of the training step, sample by sample: %s", (plora) => {
    const policy = Policy.parse({ plora });
    const result = runToEnd(evalStep(modelFor(policy), lora, batch, policy));
    expect(Math.abs(result.loss - reference.loss)).toBeLessThan(1e-5);
    expect(result.samples.map(({ labelTokens }) => labelTokens)).toEqual([14, 1, 177]);
    expect(result.samples.reduce((sum, { lossSum }) => sum + lossSum, 0)).toBeCloseTo(result.lossSum, 4);
  });
});
