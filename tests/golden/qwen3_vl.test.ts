/** Qwen3-VL has the official numbers: transformers' own model on the same tiny checkpoint. */
import { expect } from "vitest";
import { type Picture, towerStates } from "../../src/models/patchTower/tower.ts";
import type { Qwen3VlConfig } from "../../src/models/qwen3_vl/spec.ts";
import type { TowerWeights } from "../../src/models/qwen3_vl/visionWeights.ts";
import { dispose } from "../../src/torch/tensor.ts";
import { ATOL, describeGoldenCases } from "../helpers/goldenCases.ts";
import { goldenFamily, numbersOf } from "../helpers/goldenFamily.ts";
import { decoderInput } from "../helpers/hiddenStates.ts";

const family = goldenFamily("qwen3_vl", 912);

describeGoldenCases({
  family,
  checkpoint: "qwen3_vl/tiny",
  adapter: "qwen3_vl/tiny_lora",
  cases: family.cases,
  expectTower(model, batch, expected) {
    const weights = model.vision as TowerWeights;
    const recorded = Object.keys(expected).filter((key) => /^vision\.block\.\d$/.test(key));
    expect(recorded.length).toBeGreaterThan(0);
    for (const key of recorded) {
      const layers = weights.layers.slice(0, Number(/\d+/.exec(key)![0]) + 1);
      const ours = batch.images.flatMap((picture) => {
        const options = { dtype: "float32", device: "cpu", visionBatch: 1 } as const;
        const config = model.config as Qwen3VlConfig;
        return [...towerStates({ ...weights, layers }, config, picture as Picture, options).toFloat32Array()];
      });
      expect(ours, key).toMatchArray(numbersOf(expected[key]!), { atol: ATOL });
    }
    const { deepstack } = decoderInput(model, batch);
    for (const layer of [0, 1])
      expect(deepstack!.values.select(0, layer).toFloat32Array(), `deepstack.${layer}`).toMatchArray(
        numbersOf(expected[`deepstack.${layer}`]!),
        { atol: ATOL },
      );
    dispose(deepstack);
  },
});
