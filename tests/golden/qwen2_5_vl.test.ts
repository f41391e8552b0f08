/** Qwen2.5-VL has the official numbers: transformers' own model on the same tiny checkpoint. */
import { expect } from "vitest";
import { type Picture, towerStates } from "../../src/models/patchTower/tower.ts";
import type { Qwen2_5VlConfig } from "../../src/models/qwen2_5_vl/spec.ts";
import type { TowerWeights } from "../../src/models/qwen2_5_vl/visionWeights.ts";
import { integers } from "../helpers/fixtures.ts";
import { ATOL, describeGoldenCases } from "../helpers/goldenCases.ts";
import { goldenFamily, numbersOf } from "../helpers/goldenFamily.ts";

const family = goldenFamily("qwen2_5_vl", 912);

describeGoldenCases({
  family,
  checkpoint: "qwen2_5_vl/tiny",
  adapter: "qwen2_5_vl/tiny_lora",
  cases: family.cases,
  expectTower({ config, vision }, { images }, expected) {
    expect(expected.image_grid_thw!.data.length).toBe(3 * images.length);
    for (const key of Object.keys(expected).filter((key) => key.startsWith("vision.block."))) {
      const layers = Number(/\d+/.exec(key)![0]) + 1;
      const weights = { ...(vision as TowerWeights), layers: (vision as TowerWeights).layers.slice(0, layers) };
      const parts = images.map((picture) => {
        const options = { dtype: "float32", device: "cpu", visionBatch: 1 } as const;
        return towerStates(weights, config as Qwen2_5VlConfig, picture as Picture, options).toFloat32Array();
      });
      const ours = parts.flatMap((part) => [...part]);
      const order = integers(expected, "vision.window_index");
      const perToken = ours.length / order.length;
      const inOrder = order.flatMap((place) => ours.slice(place * perToken, (place + 1) * perToken));
      expect(inOrder, key).toMatchArray(numbersOf(expected[key]!), { atol: ATOL });
    }
  },
});
