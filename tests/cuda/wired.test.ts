/**
 * Compares the step as a card runs it, through the fused kernels, with the step as the CPU runs it. Here the
 * kernels' twins do the computing.
 */
import { expect, it, vi } from "vitest";
import { disposeLora, type Lora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { randomBatch, randomLora, randomModel, runToEnd, smallConfig } from "../helpers/randomModel.ts";
import { difference } from "./kernelCases.ts";

const card = vi.hoisted(() => ({ stands: false }));
vi.mock("../../src/torch/kernels/fusedKernel.ts", async (original) => ({
  ...(await original<typeof import("../../src/torch/kernels/fusedKernel.ts")>()),
  isFused: () => card.stands,
}));

const config = smallConfig({ layers: 3 });
const batchOf = () =>
  randomBatch(config, [
    { textTokens: 70, images: 1, labelTokens: 40 },
    { textTokens: 13, images: 0, labelTokens: 9 },
  ]);

function gradientsOf({ modules }: Lora): Float32Array[] {
  return [...modules.values()].flatMap(({ a, b }) =>
    [a.gradient!, b.gradient!].map((x) => x.toFloat32Array()),
  );
}

it.each(["nothing", "middle", "attention", "all"] as const)(
  "loss and gradients through the fused kernels are those of the CPU's own operators, keeping %s",
  (keep) => {
    const policy = Policy.parse({ headGroups: 1, lossChunkTokens: 7, layers: [{ count: 1, keep }] });
    const [own, fusedOnes] = [false, true].map((stands) => {
      card.stands = stands;
      const model = randomModel(config, { dtype: "float32", device: "cpu", places: placesOf(policy) });
      const lora = randomLora(config, {
        rank: 4,
        dropout: 0.1,
        targets: ".",
        device: "cpu",
        gradients: "fp32",
      });
      const { loss } = runToEnd(trainStep(model, lora, batchOf(), policy, { lossScale: 1, dropoutSeed: 3n }));
      const { loss: evaluated } = runToEnd(evalStep(model, lora, batchOf(), policy));
      const gradients = gradientsOf(lora);
      disposeLora(lora);
      disposeModel(model);
      return { loss, evaluated, gradients };
    });
    card.stands = false;
    expect(fusedOnes!.loss).toBeCloseTo(own!.loss, 4);
    expect(fusedOnes!.evaluated).toBeCloseTo(own!.evaluated, 4);
    own!.gradients.forEach((right, index) => {
      expect(difference(fusedOnes!.gradients[index]!, right)).toBeLessThan(1e-4);
    });
  },
);
