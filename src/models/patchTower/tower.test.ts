import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { plainTower } from "../../../tests/helpers/plainTower.ts";
import { randomModel, relativeDifference, runToEnd } from "../../../tests/helpers/randomModel.ts";
import { randomPicture, smallQwen, smallQwen3 } from "../../../tests/helpers/randomPatches.ts";
import { zeros } from "../../torch/create.ts";
import { memoryStats } from "../../torch/device.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import type { TowerWeights } from "../qwen2_5_vl/visionWeights.ts";
import { disposeModel } from "../weights.ts";
import { encodeInto } from "./tower.ts";
import type { PatchTowerWeights } from "./towerWeights.ts";
import { inverseOf, windowOrder } from "./windows.ts";

const sides = { rows: fc.integer({ min: 1, max: 11 }), columns: fc.integer({ min: 1, max: 11 }) };

describe("the order of windows", () => {
  it("has every token once, and those of a window side by side", () => {
    fc.assert(
      fc.property(fc.record(sides), fc.integer({ min: 1, max: 5 }), ({ rows, columns }, side) => {
        const { runs, places } = windowOrder({ rows, columns }, side);
        expect([...places].sort((one, other) => one - other)).toEqual([...places.keys()]);
        const inverse = inverseOf(places);
        expect([...inverse].map((at) => places[at])).toEqual([...places.keys()]);
        const windowAt = (token: number): string =>
          `${Math.floor(Math.floor(token / columns) / side)} ${Math.floor((token % columns) / side)}`;
        for (const { start, windows, tokensPerWindow } of runs)
          for (let window = 0; window < windows; window++) {
            const first = start + window * tokensPerWindow;
            const own = [...places.subarray(first, first + tokensPerWindow)].map(windowAt);
            expect(new Set(own).size).toBe(1);
            expect([...places].filter((token) => windowAt(token) === own[0]).length).toBe(tokensPerWindow);
          }
      }),
    );
  });
});

describe("the tower", () => {
  it("computes what plain operators compute, for any sizes, windows and tiles", () => {
    const config = fc.record({
      heads: fc.integer({ min: 1, max: 3 }),
      quarterHead: fc.integer({ min: 1, max: 3 }),
      layers: fc.integer({ min: 1, max: 4 }),
      ffn: fc.integer({ min: 1, max: 30 }),
      windowTokens: fc.integer({ min: 1, max: 5 }),
      fullAttention: fc.uniqueArray(fc.integer({ min: 0, max: 3 })),
      visionBatch: fc.constantFrom(0.02, 0.1, 4),
      ...sides,
    });
    fc.assert(
      fc.property(config, ({ heads, quarterHead, windowTokens, rows, columns, visionBatch, ...vision }) => {
        const sizes = { hidden: 4 * heads * quarterHead, heads, windowPixels: 28 * windowTokens };
        const model = smallQwen({ layers: 1, vision: { ...vision, ...sizes } });
        const { vision: weights, ...rest } = randomModel(model);
        const picture = randomPicture(rows, columns, model.pictures, rows);
        const before = memoryStats("cpu").liveBytes;
        scope(() => {
          const options = { dtype: "float64", device: "cpu", visionBatch } as const;
          const tokens = zeros([picture.tokens, model.hidden], options);
          runToEnd(encodeInto(tokens, weights as TowerWeights, model, picture, options));
          const [plain] = plainTower(weights as TowerWeights, model, picture);
          expect(relativeDifference(tokens, plain!)).toBeLessThan(1e-6); // pixels are normalised in float32
        });
        expect(memoryStats("cpu").liveBytes).toBe(before);
        disposeModel({ ...rest, vision: weights });
      }),
      { numRuns: 25 },
    );
  });

  it("does so with learned positions and features for the decoder's layers", () => {
    const config = fc.record({
      heads: fc.integer({ min: 1, max: 3 }),
      quarterHead: fc.integer({ min: 1, max: 3 }),
      layers: fc.integer({ min: 2, max: 5 }),
      ffn: fc.integer({ min: 1, max: 30 }),
      positionSide: fc.integer({ min: 1, max: 9 }),
      deepstack: fc.uniqueArray(fc.integer({ min: 0, max: 4 })),
      visionBatch: fc.constantFrom(0.02, 0.1, 4),
      ...sides,
    });
    fc.assert(
      fc.property(config, ({ heads, quarterHead, deepstack, rows, columns, visionBatch, ...vision }) => {
        const deepstackLayers = deepstack.filter((layer) => layer < vision.layers).sort((a, b) => a - b);
        const sizes = { hidden: 4 * heads * quarterHead, heads, deepstackLayers };
        const model = smallQwen3({ layers: 5, vision: { ...vision, ...sizes } });
        const { vision: weights, ...rest } = randomModel(model);
        const picture = randomPicture(rows, columns, model.pictures, rows);
        const before = memoryStats("cpu").liveBytes;
        scope(() => {
          const room = (): Tensor =>
            zeros([picture.tokens, model.hidden], { dtype: "float64", device: "cpu" });
          const [tokens, deepstack] = [room(), deepstackLayers.map(room)];
          const options = { dtype: "float64", device: "cpu", visionBatch, deepstack } as const;
          runToEnd(encodeInto(tokens, weights as PatchTowerWeights, model, picture, options));
          const plain = plainTower(weights as PatchTowerWeights, model, picture);
          for (const [index, ours] of [tokens, ...deepstack].entries())
            expect(relativeDifference(ours, plain[index]!)).toBeLessThan(1e-6);
        });
        expect(memoryStats("cpu").liveBytes).toBe(before);
        disposeModel({ ...rest, vision: weights });
      }),
      { numRuns: 25 },
    );
  });
});
