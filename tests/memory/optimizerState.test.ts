/**
 * The memory of LoRA's training state at 7B size, rank 64, computing in bfloat16: the table of
 * docs/memory.md.
 */
import { describe, expect, it } from "vitest";
import { createLora, disposeLora } from "../../src/models/lora.ts";
import { OFFICIAL_TARGETS, PRESETS } from "../../src/models/xcomposer2/spec.ts";
import {
  createAdamW,
  disposeAdamW,
  loraParameters,
  normOfGradients,
  stepAdamW,
} from "../../src/step/optimizer/optimizer.ts";
import { factorCopies, Policy } from "../../src/step/policy.ts";
import { memoryStats, POOLS, resetPeak } from "../../src/torch/device.ts";
import { scope } from "../../src/torch/tensor.ts";

const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
const MIB = 2 ** 20;

/**
 * MiB that stay on the device (factors, gradients, moments) and on the host, and MiB that an update needs in
 * addition.
 */
const TABLE = [
  { place: "device", precision: "fp32", gradients: "fp32", device: [576, 576, 1152], host: 0, update: 0 },
  { place: "device", precision: "8bit", gradients: "fp32", device: [576, 576, 293.1], host: 0, update: 5.3 },
  { place: "device", precision: "8bit", gradients: "bf16", device: [576, 288, 293.1], host: 0, update: 5.3 },
  { place: "host", precision: "fp32", gradients: "fp32", device: [288, 576, 0], host: 1728, update: 9 },
  { place: "host", precision: "fp32", gradients: "bf16", device: [288, 288, 0], host: 1728, update: 9 },
  { place: "host", precision: "8bit", gradients: "bf16", device: [288, 288, 0.6], host: 868.5, update: 9.8 },
] as const;

describe("training state of rank 64", () => {
  it.each(TABLE)(
    "$precision on the $place, gradients in $gradients",
    ({ place, precision, gradients, ...expected }) => {
      const policy = Policy.parse({ gradients, optimizer: { place, precision } });
      const before = POOLS.map((pool) => memoryStats("meta", pool));
      const lora = createLora(PRESETS["4khd-7b"], {
        ...{
          rank: 64,
          alpha: 64,
          dropout: 0,
          rslora: false,
          targets: OFFICIAL_TARGETS,
          seed: 0,
          device: "meta",
        },
        ...{ gradients, copies: factorCopies(policy, "bfloat16") },
      });
      const parameters = loraParameters(lora);
      const optimizer = createAdamW(parameters, adam, policy.optimizer);
      const [device, host] = POOLS.map((pool) => memoryStats("meta", pool));
      const categories = (["loraParameters", "loraGradients", "optimizerState"] as const).map(
        (name) => device!.liveByCategory[name] - before[0]!.liveByCategory[name],
      );
      resetPeak("meta");
      scope(() => void normOfGradients(parameters));
      stepAdamW(optimizer, 1e-4, 0.5);
      const updateBytes = memoryStats("meta").peakBytes - device!.liveBytes;
      disposeAdamW(optimizer);
      disposeLora(lora);
      const rounded = (bytes: number): number => Math.round((bytes / MIB) * 10) / 10;
      expect({
        device: categories.map(rounded),
        host: rounded(host!.liveBytes - before[1]!.liveBytes),
        update: rounded(updateBytes),
      }).toEqual(expected);
    },
  );
});
