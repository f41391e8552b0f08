import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedText, placeImage_ } from "../../src/models/inputRows.ts";
import { disposeLora, type Lora, zeroGradients } from "../../src/models/lora.ts";
import { BASES } from "../../src/models/precision/bases.ts";
import { disposeModel, type LoadOptions, type Model } from "../../src/models/weights.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { Policy } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { memoryStats, resetPeak } from "../../src/torch/device.ts";
import { dispose, keep, scope } from "../../src/torch/tensor.ts";
import {
  randomBatch,
  randomLora,
  randomModel,
  relativeDifference,
  runToEnd,
  smallConfig,
} from "../helpers/randomModel.ts";
import { referenceStep } from "../helpers/reference.ts";

/**
 * In the first, NF4's blocks end with the rows and with the head groups. In the second, blocks cross rows.
 */
const SIZES = {
  "rows of whole blocks": smallConfig({ hidden: 128, headDim: 32, ffn: 192 }),
  "blocks across rows": smallConfig({ hidden: 40, headDim: 10, ffn: 51 }),
};
const SAMPLES = [{ textTokens: 41, images: 1 }, { textTokens: 7, labelTokens: 1 }, { textTokens: 60 }];
const policy = Policy.parse({ headGroups: 2, mlpTileTokens: 512, lossChunkTokens: 9 });
const CASES = Object.keys(SIZES).flatMap((size) =>
  [...BASES.map((base) => ({ size, base })), { size, base: "nf4", headBase: "int8" } as const].map(
    (options) => options as { size: keyof typeof SIZES } & Pick<LoadOptions, "base" | "headBase">,
  ),
);

describe.each(CASES)("a step over a base in $base, $size, head $headBase", ({ size, ...bases }) => {
  const config = SIZES[size];
  const batch = randomBatch(config, SAMPLES);
  let model: Model;
  let lora: Lora;
  beforeAll(() => {
    model = randomModel(config, { dtype: "float64", ...bases });
    lora = randomLora(config, { dtype: "float64" });
  });
  afterAll(() => {
    disposeLora(lora);
    disposeModel(model);
  });

  it("has the loss and gradients of autograd over the dequantised weights", () => {
    const reference = keep(
      scope(() => {
        const hidden = embedText(model, batch.inputIds);
        for (const { start, end, image } of batch.imageSlices)
          runToEnd(placeImage_(rowsOf(hidden, { start, end }), model, batch.images[image]!, 4));
        return referenceStep(model, lora, batch, hidden);
      }),
    );
    const beforeBytes = memoryStats("cpu").liveBytes;
    const result = runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
    expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
    expect(Math.abs(result.loss - reference.loss)).toBeLessThan(1e-9);
    for (const [name, { a, b }] of lora.modules) {
      expect(relativeDifference(a.gradient!, reference.gradients.get(`${name}.a`)!), name).toBeLessThan(1e-9);
      expect(relativeDifference(b.gradient!, reference.gradients.get(`${name}.b`)!), name).toBeLessThan(1e-9);
    }
    const evaluated = runToEnd(evalStep(model, lora, batch, policy));
    expect(evaluated.loss).toBeCloseTo(reference.loss, 9);
    dispose(reference);
    zeroGradients(lora);
  });

  it("takes the same memory on meta as on the CPU", () => {
    const [cpu, meta] = (["cpu", "meta"] as const).map((device) => {
      const before = memoryStats(device).liveBytes;
      const planned = randomModel(config, { dtype: "float32", device, ...bases });
      const factors = randomLora(config, { device });
      const modelBytes = memoryStats(device).liveBytes - before;
      resetPeak(device);
      runToEnd(trainStep(planned, factors, batch, policy, { lossScale: 1 }));
      disposeLora(factors);
      disposeModel(planned);
      return { modelBytes, peakBytes: memoryStats(device).peakBytes - before };
    });
    expect(meta).toEqual(cpu);
  });
});
