import fc from "fast-check";
import { expect, it } from "vitest";
import { plainTileTower } from "../../../tests/helpers/plainTileTower.ts";
import { randomModel, relativeDifference, runToEnd } from "../../../tests/helpers/randomModel.ts";
import { RMS_TOWER, randomTiles, smallInternVl } from "../../../tests/helpers/randomTiles.ts";
import { zeros } from "../../torch/create.ts";
import { memoryStats } from "../../torch/device.ts";
import { scope } from "../../torch/tensor.ts";
import { disposeModel } from "../weights.ts";
import { encodeInto } from "./vision.ts";
import type { TowerWeights } from "./visionWeights.ts";

it("computes what plain operators compute, for any sizes, norms, layouts and batches of tiles", () => {
  const config = fc.record({
    heads: fc.integer({ min: 1, max: 4 }),
    headDim: fc.integer({ min: 1, max: 12 }),
    layers: fc.integer({ min: 0, max: 4 }),
    ffn: fc.integer({ min: 1, max: 30 }),
    side: fc.integer({ min: 1, max: 4 }),
    norm: fc.constantFrom("layer_norm" as const, "rms_norm" as const),
    qkNorm: fc.boolean(),
    qkvBias: fc.boolean(),
    layout: fc.constantFrom("hf" as const, "original" as const),
    visionBatch: fc.integer({ min: 1, max: 5 }),
    rows: fc.integer({ min: 1, max: 3 }),
    columns: fc.integer({ min: 1, max: 3 }),
  });
  fc.assert(
    fc.property(config, ({ heads, headDim, side, layout, visionBatch, rows, columns, ...vision }) => {
      const sizes = { hidden: heads * headDim, heads, tilePixels: 28 * side };
      const model = smallInternVl({ layers: 1, layout, vision: { ...vision, ...sizes } });
      const { vision: weights, ...rest } = randomModel(model);
      const picture = randomTiles(rows, columns, model.pictures, rows);
      const before = memoryStats("cpu").liveBytes;
      scope(() => {
        const options = { dtype: "float64", device: "cpu", visionBatch } as const;
        const tokens = zeros([picture.tokens, model.hidden], options);
        runToEnd(encodeInto(tokens, weights as TowerWeights, model, picture, options));
        const plain = plainTileTower(weights as TowerWeights, model, picture);
        expect(relativeDifference(tokens, plain)).toBeLessThan(1e-6); // pixels are normalised in float32
      });
      expect(memoryStats("cpu").liveBytes).toBe(before);
      disposeModel({ ...rest, vision: weights });
    }),
    { numRuns: 40 },
  );
});

it("encodes the tiles of a range alone, and leaves the rows of others", () => {
  const model = smallInternVl({ layers: 1, vision: RMS_TOWER });
  const { vision: weights, ...rest } = randomModel(model);
  const picture = randomTiles(2, 2, model.pictures);
  scope(() => {
    const options = { dtype: "float64", device: "cpu", visionBatch: 2 } as const;
    const encoded = (units?: { start: number; end: number }) => {
      const tokens = zeros([picture.tokens, model.hidden], options);
      runToEnd(encodeInto(tokens, weights as TowerWeights, model, picture, { ...options, units }));
      return tokens;
    };
    const parts = [
      { start: 0, end: 3 },
      { start: 3, end: 5 },
    ].map(encoded);
    expect(relativeDifference(parts[0]!.add(parts[1]!), encoded())).toBeLessThan(1e-12);
    expect(parts[1]!.narrow(0, 0, 12).abs().max().item()).toBe(0);
  });
  disposeModel({ ...rest, vision: weights });
});
