/** Qwen2.5-VL has the official numbers: transformers' own model on the same tiny checkpoint. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { positionsOf } from "../../src/models/families.ts";
import { disposeLora, type Lora, loraFromAdapter, zeroGradients } from "../../src/models/lora.ts";
import type { Qwen2_5VlConfig } from "../../src/models/qwen2_5_vl/spec.ts";
import { type Picture, towerStates } from "../../src/models/qwen2_5_vl/vision.ts";
import type { TowerWeights } from "../../src/models/qwen2_5_vl/visionWeights.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { integers } from "../helpers/fixtures.ts";
import { goldenFamily, gradientOf, numbersOf, relativeL2 } from "../helpers/goldenFamily.ts";
import { logitsAt, trace } from "../helpers/hiddenStates.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { golden } from "../helpers/shared.ts";

const ATOL = 1e-4;
const family = goldenFamily("qwen2_5_vl", 912);

let model: Model;
let lora: Lora;
beforeAll(() => {
  model = loadModel(golden("qwen2_5_vl/tiny"), { dtype: "float32", device: "cpu" });
  const adapter = golden("qwen2_5_vl/tiny_lora");
  lora = scope(() =>
    loraFromAdapter(model.config, readAdapter(adapter), { device: "cpu", gradients: "fp32" }),
  );
});
afterAll(() => {
  disposeModel(model);
  disposeLora(lora);
});

describe.each(family.cases)("golden case $name", ({ name, lengths, images, loss, lora: adapted }) => {
  const expected = family.fixtures(`cases/${name}.safetensors`);
  const width = expected.input_ids!.shape[1]!;
  let batch: MicroBatch;
  beforeAll(async () => {
    batch = await family.batch(name, model.config);
  });

  /** Returns the rows without padding of values by row, (axes, samples, width). */
  const packed = (values: number[]): number[] => {
    const axis = lengths.length * width;
    return Array.from({ length: values.length / axis }, (_, at) =>
      lengths.flatMap((length, sample) => {
        const start = at * axis + sample * width;
        return values.slice(start, start + length);
      }),
    ).flat();
  };

  /** Returns the rows of the batch where the official logits were recorded. */
  const labelled = (): number[] => {
    const [rows, positions] = ["label_rows", "label_positions"].map((key) => integers(expected, key));
    const starts = lengths.map((_, sample) => lengths.slice(0, sample).reduce((sum, one) => sum + one, 0));
    return rows!.map((row, at) => starts[row]! + positions![at]!);
  };

  it("has the official ids, labels and positions", () => {
    expect(batch.sampleTokens).toEqual(lengths);
    const labels = lengths.flatMap((length, sample) => {
      const start = sample * width;
      return [...integers(expected, "labels").slice(start + 1, start + length), -100];
    });
    expect([...batch.targets]).toEqual(labels);
    const { axes, values } = positionsOf(model.config, batch);
    const wanted = packed(integers(expected, "position_ids"));
    const first = wanted.length === values.length ? [...values] : [...values.slice(0, values.length / axes)];
    expect(first).toEqual(wanted);
  });

  it("has the official states of the tower and image tokens", () => {
    const { config, vision } = model;
    if (images.length === 0) return;
    scope(() => {
      const states = [...expected.image_grid_thw!.data.keys()].filter((at) => at % 3 === 0);
      expect(states.length).toBe(images.length);
      for (const key of Object.keys(expected).filter((key) => key.startsWith("vision.block."))) {
        const layers = Number(/\d+/.exec(key)![0]) + 1;
        const weights = { ...(vision as TowerWeights), layers: (vision as TowerWeights).layers.slice(0, layers) };
        const parts = batch.images.map((picture) => {
          const options = { dtype: "float32", device: "cpu", visionBatch: 1 } as const;
          return towerStates(weights, config as Qwen2_5VlConfig, picture as Picture, options).toFloat32Array();
        });
        const ours = parts.flatMap((part) => [...part]);
        const perToken = ours.length / integers(expected, "vision.window_index").length;
        const order = integers(expected, "vision.window_index");
        const inOrder = order.flatMap((place) => ours.slice(place * perToken, (place + 1) * perToken));
        expect(inOrder, key).toMatchArray(numbersOf(expected[key]!), { atol: ATOL });
      }
    });
  });

  it("has the official embeddings, states of the layers and logits", () => {
    scope(() => {
      const states = trace(model, undefined, batch);
      const C = model.config.hidden;
      const rowsOfBatch = (values: number[]): number[] =>
        lengths.flatMap((length, sample) => values.slice(sample * width * C, (sample * width + length) * C));
      for (const [point, state] of states) {
        const fixture = expected[point];
        if (fixture)
          expect(state.toFloat32Array(), point).toMatchArray(rowsOfBatch(numbersOf(fixture)), { atol: ATOL });
      }
      const embedded = states.get("inputs_embeds")!.toFloat32Array();
      const tokens = batch.imageSlices.flatMap(({ start, end }) => [...embedded.slice(start * C, end * C)]);
      if (images.length > 0)
        expect(tokens).toMatchArray(numbersOf(expected.image_embeds!), { atol: ATOL });
      expectLogits(logitsAt(model, states, labelled()), numbersOf(expected.logits_label!));
    });
  });

  it("has the official loss", () => {
    const ours = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY)).loss;
    expect(Math.abs(ours - loss)).toBeLessThan(1e-5);
  });

  it("has the official loss and LoRA gradients with an adapter", () => {
    zeroGradients(lora);
    const ours = runToEnd(trainStep(model, lora, batch, DEFAULT_POLICY, { lossScale: 1 })).loss;
    expect(Math.abs(ours - adapted.loss)).toBeLessThan(1e-5);
    if (name === "c5_windows_exact" || name === "c6_windows_ragged") return; // no gradients were recorded
    const fixtures = family.fixtures(`cases/${name}.lora.safetensors`);
    const gradients = Object.entries(fixtures).filter(([key]) => key.startsWith("grad."));
    expect(gradients.length).toBe(2 * 7 * model.config.layers);
    for (const [key, fixture] of gradients)
      expect(relativeL2(gradientOf(lora, key), numbersOf(fixture)), key).toBeLessThan(1e-4);
    if (!fixtures.logits_label) return;
    scope(() => {
      expectLogits(
        logitsAt(model, trace(model, lora, batch), labelled()),
        numbersOf(fixtures.logits_label!),
      );
    });
  });
});

function expectLogits(logits: Tensor, expected: number[]): void {
  expect(logits.toFloat32Array()).toMatchArray(expected, { atol: ATOL });
}
