/**
 * The optimizer on a card, with its state on the card or in pinned memory. Reported as skipped if there is no
 * card.
 */
import { describe, expect, test } from "vitest";
import { createLora, disposeLora } from "../../src/models/lora.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { createAdamW, disposeAdamW, loraParameters, stepAdamW } from "../../src/step/optimizer/optimizer.ts";
import { momentTensors } from "../../src/step/optimizer/savedState.ts";
import { factorCopies, Policy } from "../../src/step/policy.ts";
import { cudaProblem, memoryStats, synchronize } from "../../src/torch/device.ts";
import { scope } from "../../src/torch/tensor.ts";
import { randomTensor, smallConfig } from "../helpers/randomModel.ts";

const card = "cuda:0";
const problem = cudaProblem();
if (problem) console.warn(`SKIPPED: the optimizer is not tested on a card. ${problem}`);

const RATE = 1e-2;
const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };

describe.skipIf(problem)("an update on a card", () => {
  test.each(["fp32", "8bit"] as const)(
    "with %s moments in pinned memory gives the same bytes",
    (precision) => {
      expect(outcome(card, "host", precision)).toEqual(outcome(card, "device", precision));
    },
  );

  test.each(["device", "host"] as const)("from the %s gives the CPU's values", (place) => {
    const [onCard, onCpu] = [outcome(card, place, "fp32"), outcome("cpu", place, "fp32")];
    for (const [name, values] of onCpu) {
      const worst = values.reduce((most, x, at) => Math.max(most, Math.abs(x - onCard.get(name)![at]!)), 0);
      expect(worst, name).toBeLessThan(1e-5);
    }
  });

  test.each(["device", "host"] as const)("from the %s gives back every byte", (place) => {
    outcome(card, place, "8bit");
    synchronize(card);
    const before = memoryStats(card).liveBytes;
    outcome(card, place, "8bit");
    synchronize(card);
    expect(memoryStats(card).liveBytes).toBe(before);
  });
});

/** Returns factors, copies and moments after three steps with gradients drawn on the CPU. */
function outcome(device: "cpu" | typeof card, place: "device" | "host", precision: "fp32" | "8bit") {
  const policy = Policy.parse({ gradients: "bf16", optimizer: { place, precision } });
  const lora = createLora(smallConfig(), {
    ...{ rank: 200, alpha: 200, dropout: 0, rslora: false, targets: OFFICIAL_TARGETS, seed: 1, device },
    ...{ gradients: policy.gradients, copies: factorCopies(policy, "bfloat16") },
  });
  const parameters = loraParameters(lora);
  scope(() => {
    for (const [index, { value, copy }] of parameters.entries()) {
      value.copy_(randomTensor([...value.shape], index, { dtype: "float32" }));
      copy?.copy_(value);
    }
  });
  const optimizer = createAdamW(parameters, adam, { ...policy.optimizer, tileElements: 8192 });
  for (let step = 1; step <= 3; step++) {
    for (const [index, { gradient }] of parameters.entries()) {
      scope(() =>
        gradient.copy_(randomTensor([...gradient.shape], 100 * step + index, { dtype: "float32" })),
      );
    }
    stepAdamW(optimizer, RATE, 0.5);
  }
  const factors = parameters.map(({ name, value }) => [name, value.toFloat32Array()] as const);
  const moments = momentTensors(optimizer).map(([name, moment]) => [name, moment.toFloat32Array()] as const);
  disposeAdamW(optimizer);
  disposeLora(lora);
  return new Map([...factors, ...moments]);
}
