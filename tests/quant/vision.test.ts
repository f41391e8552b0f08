/** The vision tower in fewer bits: its image tokens, its memory, and its place. */

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import type { HdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { disposeLora } from "../../src/models/lora.ts";
import type { Base } from "../../src/models/precision/bases.ts";
import { disposeModel, type Model } from "../../src/models/weights.ts";
import { PRESETS } from "../../src/models/xcomposer2/spec.ts";
import { encodeImage, type Picture } from "../../src/models/xcomposer2/vision.ts";
import type { VisionWeights } from "../../src/models/xcomposer2/visionWeights.ts";
import type { AffineLinear } from "../../src/nn/affine.ts";
import { denseMatrix, frozenAffine, frozenValues } from "../../src/nn/frozen/frozen.ts";
import { quantize } from "../../src/nn/frozen/quantized.ts";
import { QUANTIZED_PRECISIONS } from "../../src/nn/frozen/storedNames.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { loadingOf, Policy } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { dispose, scope, type Tensor } from "../../src/torch/tensor.ts";
import {
  randomBatch,
  randomLora,
  randomModel,
  randomTensor,
  relativeDifference,
  runToEnd,
  smallConfig,
  visionOf,
} from "../helpers/randomModel.ts";

const clip = { layers: 3, heads: 2, imagePixels: 336, patchPixels: 14, eps: 1e-5 };
/** In the first, NF4's blocks end with the rows. In the second, blocks cross rows. */
const SIZES = {
  "rows of whole blocks": smallConfig({ hidden: 64, vision: { ...clip, hidden: 64, ffn: 128 } }),
  "blocks across rows": smallConfig({ hidden: 40, vision: { ...clip, hidden: 36, ffn: 51 } }),
};
const CASES = QUANTIZED_PRECISIONS.flatMap((precision) =>
  (Object.keys(SIZES) as (keyof typeof SIZES)[]).map((size) => ({ precision, size })),
);
/**
 * Bounds of
 * Q - D
 *  /
 * D
 *  for image tokens over random weights. Measured at most 0.0142, 0.205 and 0.0517: twice the error of a
 * single matrix.
 */
const MOST_ERROR = { int8: 0.018, nf4: 0.25, fp8: 0.065 };

describe.each(CASES)("a vision tower in $precision, $size", ({ precision, size }) => {
  const config = SIZES[size];
  let dense: Model;
  let model: Model;
  beforeAll(() => {
    dense = randomModel(config, { dtype: "float64" });
    model = randomModel(config, { dtype: "float64", visionBase: precision });
  });
  afterAll(() => dispose([dense, model]));

  it("has all its linears so, the projector's too, and nothing else", () => {
    const { layers, projector, patch } = visionOf(model).weights;
    const linears = [...layers.flatMap(({ qkv, out, fc1, fc2 }) => [...qkv, out, fc1, fc2]), ...projector];
    expect(new Set(linears.map(({ weight }) => weight.precision))).toEqual(new Set([precision]));
    expect(patch.dtype).toBe("float64");
    expect(
      [model.head, model.layers[0]!.linears["attention.wo"]!.weight].map((one) => one.precision),
    ).toEqual(["dense", "dense"]);
  });

  it("makes of a picture what the same values in full make, and nearly what the full ones do", () => {
    scope(() => {
      const picture = randomBatch(config, [{ textTokens: 1, images: 1 }]).images[0] as HdImage;
      const [own, full] = [encode(model, picture), encode(dense, picture)];
      const same = encode({ ...model, vision: inFull(visionOf(model).weights) }, picture);
      expect(relativeDifference(own, same)).toBeLessThan(1e-12);
      const error = normOf(own.sub(full)) / normOf(full);
      expect(error).toBeLessThan(MOST_ERROR[precision]);
      expect(error).toBeGreaterThan(MOST_ERROR[precision] / 10);
    });
  });
});

it.each(QUANTIZED_PRECISIONS)("adds the bias to a product with a matrix in %s", (precision) => {
  scope(() => {
    const [x, bias] = [randomTensor([2, 3, 64], 1), randomTensor([9], 2)];
    const matrix = quantize(randomTensor([9, 64], 3), precision, { device: "cpu" });
    const values = frozenValues(matrix, { dtype: "float64" });
    expect(relativeDifference(frozenAffine(x, matrix, bias), x.linear(values, { bias }))).toBeLessThan(1e-13);
  });
});

describe("memory of a vision tower in fewer bits", () => {
  it("the official tower: so many bytes less, and a scratch while it computes", () => {
    const configuration: Configuration = {
      ...{
        model: PRESETS["4khd-7b"],
        dtype: "bfloat16",
        target: findDevice("a100-80gb"),
        mapsWeights: false,
      },
      lora: { rank: 4, dropout: 0, targets: "w2$" },
      batch: { samples: 1, sampleTokens: 900, pictures: [tileGrid(1, 2)], labelTokens: 64 },
      policy: Policy.parse({ visionBatchTiles: 2 }),
    };
    const [full, int8, nf4] = ([undefined, "int8", "nf4"] as const).map((visionBase) => {
      const { device, phases } = dryRun({ ...configuration, visionBase });
      const { devicePeakBytes } = phases.find(({ name }) => name === "vision")!;
      return { weights: device.categories.weights, vision: devicePeakBytes - device.categories.weights };
    }) as [Planned, Planned, Planned];
    const linears = 24 * (4 * 1024 + 2 * 4096) * 1024 + 2 * 4096 * 4096;
    const outs = 24 * (5 * 1024 + 4096) + 2 * 4096;
    expect(full.weights - int8.weights).toBe(linears - 4 * outs);
    expect((8 * (nf4.weights - full.weights + 2 * linears)) / linears).toBeCloseTo(4.138, 3); // bits per weight, including the maps of each matrix
    for (const { vision } of [int8, nf4]) {
      expect(vision - full.vision).toBeGreaterThanOrEqual(0);
      expect(vision - full.vision).toBeLessThanOrEqual(16 * 2 ** 20);
    }
  });
});

interface Planned {
  weights: number;
  vision: number;
}

it.each(QUANTIZED_PRECISIONS)(
  "a step over a tower in %s is the same to the byte wherever the tower lies",
  (visionBase) => {
    expect(outcome(visionBase, { vision: "host" })).toEqual(outcome(visionBase, {}));
  },
);

/** Returns loss and gradients of a step over a model whose parts lie where a policy puts them. */
function outcome(visionBase: Base, wanted: object): { loss: number; gradients: Float32Array[] } {
  const config = SIZES["rows of whole blocks"];
  const policy = Policy.parse(wanted);
  const model = randomModel(config, { dtype: "float32", visionBase, ...loadingOf(policy) });
  const lora = randomLora(config);
  const batch = randomBatch(config, [{ textTokens: 20, images: 1 }]);
  const { loss } = runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
  const gradients = [...lora.modules.values()].flatMap(({ a, b }) =>
    [a.gradient!, b.gradient!].map((x) => x.toFloat32Array()),
  );
  disposeLora(lora);
  disposeModel(model);
  return { loss, gradients };
}

/** Returns the tower with its matrices' values in full. */
function inFull(vision: VisionWeights): VisionWeights {
  const dense = ({ weight, bias }: AffineLinear): AffineLinear => ({
    weight: denseMatrix(frozenValues(weight, { dtype: "float64" })),
    bias,
  });
  const [first, second] = vision.projector;
  return {
    ...vision,
    layers: vision.layers.map(({ qkv, out, fc1, fc2, ...norms }) => ({
      ...norms,
      ...{ qkv: qkv.map(dense), out: dense(out), fc1: dense(fc1), fc2: dense(fc2) },
    })),
    projector: [dense(first), dense(second)],
  };
}

function encode(model: Model, picture: Picture, visionBatch = 2): Tensor {
  const { dtype, device } = model;
  const { weights, config } = visionOf(model);
  return encodeImage(weights, config, picture, { dtype, device, visionBatch });
}

function normOf(x: Tensor): number {
  return scope(() => x.square().sum().sqrt().item());
}
