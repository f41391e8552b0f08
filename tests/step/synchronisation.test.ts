/** A step on a card must not make the host wait for it but once: every wait is a read of a tensor's numbers, counted here on the CPU. */
import { expect, it, vi } from "vitest";
import { disposeLora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { createAdamW, disposeAdamW, loraParameters, stepAdamW } from "../../src/step/optimizer.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { pendingCopies } from "../../src/torch/copies.ts";
import { native } from "../../src/torch/native.ts";
import { randomBatch, randomLora, randomModel, runToEnd, smallConfig } from "../randomModel.ts";

const config = smallConfig({ hidden: 64, headDim: 16, ffn: 128, layers: 3 });
const batch = randomBatch(config, [
  { textTokens: 30, images: 1, labelTokens: 20 },
  { textTokens: 9, labelTokens: 3 },
]);
const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };

const POLICIES = {
  default: {},
  "boundaries on the host": { boundaryAhead: true, layers: [{ count: 1, boundary: "host" }] },
  "all on the host": {
    weights: { source: "streamed" },
    embeddings: "host",
    head: "host",
    vision: "host",
    optimizer: { place: "host", precision: "8bit" },
    gradients: "bf16",
  },
} as const;

it.each(
  Object.keys(POLICIES).flatMap((name) =>
    [undefined, "nf4", "int8", "fp8"].map((base) => [name, base] as const),
  ),
)("loss and gradient norm of a step and its update are read at once: %s, base %s", (name, base) => {
  const policy = Policy.parse(POLICIES[name as keyof typeof POLICIES]);
  const model = randomModel(config, {
    dtype: "bfloat16",
    base: base as "nf4" | undefined,
    places: placesOf(policy),
  });
  const lora = randomLora(config, { gradients: policy.gradients });
  const optimizer = createAdamW(loraParameters(lora), adam, policy.optimizer);
  const reads = [vi.spyOn(native, "toBytes"), vi.spyOn(native, "item")] as const;
  const { loss, gradientNorm } = runToEnd(
    trainStep(model, lora, batch, policy, { lossScale: 1, dropoutSeed: 1n, normOf: optimizer.parameters }),
  );
  stepAdamW(optimizer, 1e-3, 0.5);
  const counts = reads.map((spy) => spy.mock.calls.length);
  for (const spy of reads) spy.mockRestore();
  expect(counts).toEqual([1, 0]);
  expect(loss).toBeGreaterThan(0);
  expect(gradientNorm).toBeGreaterThan(0);
  disposeAdamW(optimizer);
  disposeLora(lora);
  disposeModel(model);
});

it("boundaries go to the host and come back while layers compute, and none is under way at the end", () => {
  const policy = Policy.parse(POLICIES["boundaries on the host"]);
  const model = randomModel(config, { dtype: "float32", places: placesOf(policy) });
  const lora = randomLora(config);
  const pending: Record<string, number[]> = {};
  const step = trainStep(model, lora, batch, policy, { lossScale: 1 });
  for (let next = step.next(); !next.done; next = step.next()) {
    const { phase } = next.value;
    pending[phase] = [...(pending[phase] ?? []), pendingCopies()];
  }
  expect(pending.forward).toEqual(pending.forward!.map(() => 0)); // a layer's input is whole before its attention is added
  expect(pending.backward).toEqual([1, 1, 1, 1, 1, 0, 0, 0]); // from when a layer's own input is there until the next layer begins
  expect(pendingCopies()).toBe(0);
  disposeLora(lora);
  disposeModel(model);
});
