/** Tests that a family has the official numbers: those of transformers' model on a tiny checkpoint. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { positionsOf } from "../../src/models/families.ts";
import { disposeLora, type Lora, loraFromAdapter, zeroGradients } from "../../src/models/lora.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { type Fixture, integers } from "./fixtures.ts";
import { type FamilyCase, type GoldenFamily, gradientOf, numbersOf, relativeL2 } from "./goldenFamily.ts";
import { logitsAt, trace } from "./hiddenStates.ts";
import { runToEnd } from "./randomModel.ts";
import { golden } from "./shared.ts";

/** Largest difference of hidden states and logits. */
export const ATOL = 1e-4;

export interface GoldenCases {
  family: GoldenFamily;
  /** Folders of the checkpoint and of the adapter with gradients, below tests/golden. */
  checkpoint: string;
  adapter: string;
  cases: readonly FamilyCase[];
  /** Compares what the tower computes of a micro-batch's pictures, which are some. */
  expectTower(model: Model, batch: MicroBatch, expected: Record<string, Fixture>): void;
}

/** Describes all cases of one checkpoint. */
export function describeGoldenCases({ family, checkpoint, adapter, cases, expectTower }: GoldenCases): void {
  let model: Model;
  let lora: Lora;
  beforeAll(() => {
    model = loadModel(golden(checkpoint), { dtype: "float32", device: "cpu" });
    const read = readAdapter(golden(adapter));
    lora = scope(() => loraFromAdapter(model.config, read, { device: "cpu", gradients: "fp32" }));
  });
  afterAll(() => {
    disposeModel(model);
    disposeLora(lora);
  });

  describe.each(cases)("golden case $name", (known) => {
    const { name, lengths, images, loss, lora: adapted } = known;
    const expected = family.fixtures(`cases/${name}.safetensors`);
    const rows = rowsOfCase(known, expected);
    let batch: MicroBatch;
    beforeAll(async () => {
      batch = await family.batch(name, model.config);
    });

    it("has the official ids, labels and positions", () => {
      expect(batch.sampleTokens).toEqual(lengths);
      const width = expected.input_ids!.shape[1]!;
      const labels = lengths.flatMap((length, sample) => {
        const start = sample * width;
        return [...integers(expected, "labels").slice(start + 1, start + length), -100];
      });
      expect([...batch.targets]).toEqual(labels);
      const { axes, values } = positionsOf(model.config, batch);
      const wanted = rows.packed(integers(expected, "position_ids"));
      const first =
        wanted.length === values.length ? [...values] : [...values.slice(0, values.length / axes)];
      expect(first).toEqual(wanted);
    });

    it.skipIf(images.length === 0)("has the official states of the tower", () => {
      scope(() => expectTower(model, batch, expected));
    });

    it("has the official embeddings, states of the layers and logits", () => {
      scope(() => {
        const states = trace(model, undefined, batch);
        for (const [point, state] of states) {
          const fixture = expected[point];
          if (!fixture) continue;
          const wanted = rows.ofSamples(numbersOf(fixture), model.config.hidden);
          expect(state.toFloat32Array(), point).toMatchArray(wanted, { atol: ATOL });
        }
        if (images.length > 0) {
          const tokens = imageTokens(states.get("inputs_embeds")!, batch);
          expect(tokens).toMatchArray(numbersOf(expected.image_embeds!), { atol: ATOL });
        }
        expectLogits(logitsAt(model, states, rows.labelled()), expected.logits_label!);
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
      if (!family.has(`cases/${name}.lora.safetensors`)) return; // no gradients were recorded
      const fixtures = family.fixtures(`cases/${name}.lora.safetensors`);
      const gradients = Object.entries(fixtures).filter(([key]) => key.startsWith("grad."));
      expect(gradients.length).toBe(2 * 7 * model.config.layers);
      for (const [key, fixture] of gradients)
        expect(relativeL2(gradientOf(lora, key), numbersOf(fixture)), key).toBeLessThan(1e-4);
      const { logits_label: wanted } = fixtures;
      if (!wanted) return;
      scope(() => expectLogits(logitsAt(model, trace(model, lora, batch), rows.labelled()), wanted));
    });
  });
}

/** Returns the image tokens among the rows of a micro-batch, (T, C). */
export function imageTokens(rows: Tensor, { imageSlices }: MicroBatch): number[] {
  const C = rows.shape[1]!;
  const values = rows.toFloat32Array();
  return imageSlices.flatMap(({ start, end }) => [...values.slice(start * C, end * C)]);
}

function rowsOfCase({ lengths }: FamilyCase, expected: Record<string, Fixture>) {
  const width = expected.input_ids!.shape[1]!;
  const ofSamples = (values: number[], size: number): number[] =>
    lengths.flatMap((length, sample) =>
      values.slice(sample * width * size, (sample * width + length) * size),
    );
  return {
    /** Returns the rows without padding of values by row, (samples, width, size). */
    ofSamples,
    /** Returns the rows without padding of values by row and axis, (axes, samples, width). */
    packed(values: number[]): number[] {
      const axis = lengths.length * width;
      return Array.from({ length: values.length / axis }, (_, at) =>
        ofSamples(values.slice(at * axis, (at + 1) * axis), 1),
      ).flat();
    },
    /** Returns the rows of the batch where the official logits were recorded. */
    labelled(): number[] {
      const [rows, positions] = ["label_rows", "label_positions"].map((key) => integers(expected, key));
      const starts = lengths.map((_, sample) => lengths.slice(0, sample).reduce((sum, one) => sum + one, 0));
      return rows!.map((row, at) => starts[row]! + positions![at]!);
    },
  };
}

function expectLogits(logits: Tensor, expected: Fixture): void {
  expect(logits.toFloat32Array()).toMatchArray(numbersOf(expected), { atol: ATOL });
}
