/** Checkpoint folders of random weights, and a step of their model beside plain autograd. */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { writeSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import type { Deepstack } from "../../src/models/deepstack.ts";
import type { TensorSpec } from "../../src/models/family.ts";
import { disposeLora, zeroGradients } from "../../src/models/lora.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { type Policy, placesOf } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { moveModel_ } from "./moveModel.ts";
import { randomLora, randomTensor, relativeDifference, runToEnd } from "./randomModel.ts";
import { referenceStep } from "./reference.ts";

/** Names of norms and scales, whose random weights are near 1. */
const NORMS = /(?:norm.*|ln_q)\.weight$|lambda_\d$/;

/** Writes random weights under the names that `stored` gives them. files: contents by name. */
export function writeRandomCheckpoint(
  folder: string,
  files: Record<string, object>,
  tensors: ReadonlyMap<string, TensorSpec>,
  stored = (name: string): string => name,
): void {
  mkdirSync(folder);
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(folder, name), JSON.stringify(content));
  scope(() => {
    const all = [...tensors].map(([name, { shape }], index) => {
      const isNorm = NORMS.test(name);
      const noise = randomTensor(shape, index, { dtype: "float32", scale: isNorm ? 0.1 : 0.2 });
      return [stored(name), isNorm ? noise.add_(1) : noise] as const;
    });
    writeSafetensors(join(folder, "model.safetensors"), all, { format: "pt" });
  });
}

/**
 * Expects the loss and the gradients of plain autograd from a checkpoint's model, and removes the checkpoint.
 * plainInput: returns the decoder's input, (T, C), by plain operators, and the features for its layers.
 */
export function expectPlainStep(
  folder: string,
  batch: MicroBatch,
  policy: Policy,
  { config, plainInput }: { config: object; plainInput: (model: Model) => [Tensor, Deepstack?] },
): void {
  const model = loadModel(folder, { dtype: "float64", device: "cpu" });
  expect(model.config).toMatchObject(config);
  const lora = randomLora(model.config, { dtype: "float64" });
  scope(() => {
    const reference = referenceStep(model, lora, batch, ...plainInput(model));
    zeroGradients(lora);
    moveModel_(model, placesOf(policy));
    const { loss } = runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
    expect(Math.abs(loss - reference.loss)).toBeLessThan(1e-6); // pixels are normalised in float32
    for (const [module, { a, b }] of lora.modules)
      for (const [factor, { gradient }] of Object.entries({ a, b })) {
        const expected = reference.gradients.get(`${module}.${factor}`)!;
        expect(relativeDifference(gradient!, expected), `${module}.${factor}`).toBeLessThan(1e-5);
      }
  });
  const { loss } = runToEnd(evalStep(model, undefined, batch, policy));
  expect(Number.isFinite(loss)).toBe(true);
  disposeLora(lora);
  disposeModel(model);
  rmSync(folder, { recursive: true });
}
