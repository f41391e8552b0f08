import { expect, it } from "vitest";
import { disposeModel } from "../../src/models/weights.ts";
import { OFFICIAL_TARGETS, PRESETS } from "../../src/models/xcomposer2/spec.ts";
import { quantizedShape } from "../../src/nn/frozen/quantized.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { Policy } from "../../src/step/policy.ts";
import { memoryStats, resetPeak } from "../../src/torch/device.ts";
import { randomModel, smallConfig } from "../helpers/randomModel.ts";
import { matrixBytes } from "./matrixBytes.ts";

const base: Configuration = {
  model: PRESETS["4khd-7b"],
  dtype: "bfloat16",
  lora: { rank: 16, dropout: 0, targets: OFFICIAL_TARGETS },
  batch: { samples: 1, sampleTokens: 2048, pictures: [], labelTokens: 256 },
  policy: Policy.parse({ headGroups: 8, mlpTileTokens: 512, lossChunkTokens: 64 }),
  target: findDevice("rtx-4090"),
  mapsWeights: false,
};
const MiB = 2 ** 20;

it("plans the 7B base in every precision: so much less, and a small scratch beside it", () => {
  const [full, int8, fp8, nf4] = (["bf16", "int8", "fp8", "nf4"] as const).map((precision) => {
    const { device } = dryRun({ ...base, base: precision });
    return { weights: device.categories.weights, others: device.peakBytes - device.categories.weights };
  });
  const linears = 32 * 4096 * (6144 + 4096 + 3 * 14336);
  expect(full!.weights - int8!.weights).toBeCloseTo(linears - 32 * 4 * (6144 + 2 * 4096 + 2 * 14336), -1);
  expect(fp8!.weights).toBe(int8!.weights);
  expect((8 * (nf4!.weights - full!.weights + 2 * linears)) / linears).toBeCloseTo(4.127, 2); // bits per weight
  for (const { others } of [int8!, nf4!]) expect(others - full!.others).toBeLessThanOrEqual(16 * MiB);
  expect(fp8!.others - full!.others).toBeLessThanOrEqual(48 * MiB); // this card multiplies fp8, so it holds activations in fp8 and their pieces
});

it.each(["int8", "nf4", "fp8"] as const)(
  "counts in a model what its matrices in %s say they occupy",
  (precision) => {
    const config = smallConfig({ hidden: 256, headDim: 64, ffn: 320, layers: 1 });
    const beforeBytes = memoryStats("cpu").liveBytes;
    resetPeak("cpu");
    const [dense, quantised] = ([undefined, precision] as const).map((chosen) => {
      const model = randomModel(config, { dtype: "float32", base: chosen });
      const bytes = memoryStats("cpu").liveBytes - beforeBytes;
      const matrices = model.layers
        .flatMap(({ linears }) => Object.values(linears))
        .map(({ weight }) => weight);
      const own = matrices.reduce((sum, matrix) => {
        if (matrix.precision === "dense") return sum + matrix.weight.bytes;
        expect(quantizedShape(matrix)[1] % 64).toBe(0);
        return sum + matrixBytes(matrix);
      }, 0);
      disposeModel(model);
      return bytes - own;
    });
    expect(quantised).toBe(dense);
  },
);
