/** Measures the memory of a step, to compare it with a plan. */
import { pictureFormOf } from "../../src/models/families.ts";
import { createLora, disposeLora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { plannedBatch } from "../../src/plan/dryRun/batchShapes.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { OFFICIAL_ADAMW } from "../../src/step/optimizer/adamW.ts";
import {
  createAdamW,
  disposeAdamW,
  gradientNorm,
  loraParameters,
  stepAdamW,
} from "../../src/step/optimizer/optimizer.ts";
import { factorCopies, loadingOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { memoryStats, resetPeak } from "../../src/torch/device.ts";
import { randomModel } from "./randomModel.ts";

/**
 * Measures a step and an update on the CPU once the model is loaded: peaks of live bytes, and the device's
 * while pictures are encoded. No plan counts the memory that quantising needs while loading.
 */
export function measuredStep(configuration: Configuration): {
  device: number;
  host: number;
  vision: number;
} {
  const { model: sizes, lora: shape, batch: planned, policy, dtype, visionBase } = configuration;
  const live = [memoryStats("cpu").liveBytes, memoryStats("cpu", "host").liveBytes] as const;
  const weights = randomModel(sizes, { dtype, visionBase, ...loadingOf(policy) });
  resetPeak("cpu");
  resetPeak("cpu", "host");
  const lora = createLora(sizes, {
    ...{ ...shape, alpha: 4, rslora: false, seed: 1, device: "cpu" },
    ...{ gradients: policy.gradients, copies: factorCopies(policy, dtype) },
  });
  const optimizer = createAdamW(loraParameters(lora), OFFICIAL_ADAMW, policy.optimizer);
  const rows = plannedBatch(planned);
  const form = pictureFormOf(sizes);
  const images = rows.images.map((picture) => form.black(picture));
  const dropoutSeed = shape.dropout > 0 ? { dropoutSeed: 3n } : {};
  const options = { lossScale: 1, ...dropoutSeed };
  const peakBefore = memoryStats("cpu").peakBytes;
  resetPeak("cpu");
  let visionPeak = live[0];
  for (const { phase } of trainStep(weights, lora, { ...rows, images }, policy, options))
    if (phase === "vision") visionPeak = memoryStats("cpu").peakBytes;
  gradientNorm(optimizer.parameters);
  stepAdamW(optimizer, 1e-4, 0.5);
  disposeAdamW(optimizer);
  disposeLora(lora);
  disposeModel(weights);
  return {
    device: Math.max(peakBefore, memoryStats("cpu").peakBytes) - live[0],
    host: memoryStats("cpu", "host").peakBytes - live[1],
    vision: visionPeak - live[0],
  };
}
