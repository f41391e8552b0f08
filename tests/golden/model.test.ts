import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { disposeLora, type Lora, loraFromAdapter, zeroGradients } from "../../src/models/lora.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { embedText } from "../../src/models/inputRows.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { fromArray } from "../../src/torch/create.ts";
import { dispose, scope, type Tensor } from "../../src/torch/tensor.ts";
import { type Fixture, readFixture } from "../helpers/fixtures.ts";
import { GOLDEN_CASES, type GoldenCase, goldenBatch } from "../helpers/goldenBatch.ts";
import { logitsAt, trace } from "../helpers/hiddenStates.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { golden } from "../helpers/shared.ts";
import { referenceStep } from "../helpers/reference.ts";

interface ManifestCase {
  name: string;
  loss: number;
  lora?: { loss: number };
  bf16?: { loss: number; lora_loss: number };
}

const manifest = JSON.parse(readFileSync(golden("tiny_cases/manifest.json"), "utf8")) as {
  cases: ManifestCase[];
};
const ATOL = 1e-4;
/**
 * Twice the change that bfloat16 makes in the official numbers, because two implementations may err in
 * opposite directions.
 */
const BF16 = { loss: 0.01, lastHidden: 0.024, logits: 0.156, gradients: 0.078 };

let model: Model;
let lora: Lora;

beforeAll(() => {
  model = loadModel(golden("tiny"), { dtype: "float32", device: "cpu" });
  lora = scope(() =>
    loraFromAdapter(model.config, readAdapter(golden("tiny_lora")), { device: "cpu", gradients: "fp32" }),
  );
});

afterAll(() => {
  disposeModel(model);
  disposeLora(lora);
});

function caseOf(name: string): ManifestCase {
  return manifest.cases.find((found) => found.name === name)!;
}

/** Returns the part of a tensor that the fixture keeps. */
function kept(x: Tensor, { stride }: Fixture): ArrayLike<number> {
  return scope(() =>
    (stride ? x.slice({ dim: stride.dim, start: 0, step: stride.step }) : x).toFloat32Array(),
  );
}

function numbers({ data }: Fixture): ArrayLike<number> {
  return Array.from(data as ArrayLike<number | bigint>, Number);
}

describe.each(GOLDEN_CASES)("golden case %s", (name: GoldenCase) => {
  const expected = readFixture(golden(`tiny_cases/${name}.safetensors`));
  let batch: MicroBatch;
  beforeAll(async () => {
    batch = await goldenBatch(name);
  });

  it("has the official rows, labels and picture rows", () => {
    const imageMask = new Uint8Array(batch.inputIds.length);
    for (const { start, end } of batch.imageSlices) imageMask.fill(1, start, end);
    expect([...imageMask]).toEqual(numbers(expected.im_mask!));
    const labels = numbers(expected.labels!);
    expect([...batch.targets.slice(0, -1)]).toEqual(Array.from(labels).slice(1));
  });

  it("has the official embeddings, hidden states of every layer and logits", () => {
    scope(() => {
      const states = trace(model, undefined, batch);
      let compared = 0;
      for (const [point, state] of states) {
        const fixture = expected[point];
        if (!fixture) continue;
        expect(kept(state, fixture), point).toMatchArray(numbers(fixture), { atol: ATOL });
        compared++;
      }
      expect(compared).toBeGreaterThanOrEqual(4);
      expectLogits(logitsAt(model, states, numbers(expected.label_positions!)), expected.logits_label!, ATOL);
    });
  });

  it("has the official loss", () => {
    const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
    expect(Math.abs(loss - caseOf(name).loss)).toBeLessThan(1e-5);
  });

  it("has the official loss and LoRA gradients with an adapter", () => {
    const fixtures = readFixture(golden(`tiny_cases/${name}.lora.safetensors`));
    zeroGradients(lora);
    const { loss } = runToEnd(trainStep(model, lora, batch, DEFAULT_POLICY, { lossScale: 1 }));
    expect(Math.abs(loss - caseOf(name).lora!.loss)).toBeLessThan(1e-5);
    const gradients = Object.entries(fixtures).filter(([key]) => key.startsWith("grad."));
    expect(gradients.length).toBe(30);
    for (const [key, fixture] of gradients) {
      expect(relativeL2(gradientOf(lora, key), numbers(fixture)), key).toBeLessThan(1e-4);
    }
    scope(() => {
      const states = trace(model, lora, batch);
      const logits = logitsAt(model, states, numbers(expected.label_positions!));
      expectLogits(logits, fixtures.logits_label!, ATOL);
    });
  });
});

describe("samples packed into one micro-batch", () => {
  it("have the loss and gradients of the samples one by one, each weighted by its labels", async () => {
    const names = ["c1_text", "c2_img_1x1", "c4_img_3x1"] as const;
    const packed = await goldenBatch(...names);
    zeroGradients(lora);
    const whole = runToEnd(trainStep(model, lora, packed, DEFAULT_POLICY, { lossScale: packed.labelTokens }));
    const together = scope(() => [...lora.modules.values()].map(({ a }) => a.gradient!.toFloat32Array()));
    zeroGradients(lora);
    let lossSum = 0;
    for (const name of names) {
      const batch = await goldenBatch(name);
      lossSum += runToEnd(
        trainStep(model, lora, batch, DEFAULT_POLICY, { lossScale: batch.labelTokens }),
      ).lossSum;
    }
    expect(lossSum).toBeCloseTo(whole.lossSum, 3);
    [...lora.modules.values()].forEach(({ a }, index) => {
      expect(relativeL2(a.gradient!.toFloat32Array(), together[index]!)).toBeLessThan(1e-5);
    });
  });

  describe("as the official right-padded batch", () => {
    const fixtures = readFixture(golden("tiny_cases/c7_text_batch2_padded.safetensors"));
    const packed = officialBatch(fixtures, "packed");

    it("have its loss and logits", () => {
      const { loss } = runToEnd(evalStep(model, undefined, packed, DEFAULT_POLICY));
      expect(Math.abs(loss - caseOf("c7_text_batch2_padded").loss)).toBeLessThan(1e-5);
      const { data, shape, stride } = fixtures.logits!;
      const vocab = shape[2]!;
      scope(() => {
        const states = trace(model, undefined, packed);
        let first = 0;
        for (const [sample, tokens] of packed.sampleTokens.entries()) {
          const rows = Array.from({ length: shape[1]! }, (_, row) => row * stride!.step).filter(
            (row) => row < tokens, // later rows are padding
          );
          const logits = logitsAt(
            model,
            states,
            rows.map((row) => first + row),
          );
          const start = sample * shape[1]! * vocab;
          const official = Array.from(data.slice(start, start + rows.length * vocab), Number);
          expect(logits.toFloat32Array()).toMatchArray(official, { atol: ATOL });
          first += tokens;
        }
      });
    });

    it("have its gradients, by autograd over the padded rows", () => {
      const padded = officialBatch(fixtures, "padded");
      zeroGradients(lora);
      const ours = runToEnd(trainStep(model, lora, packed, DEFAULT_POLICY, { lossScale: 1 }));
      scope(() => {
        const reference = referenceStep(model, lora, padded, embedText(model, padded.inputIds));
        expect(Math.abs(ours.loss - reference.loss)).toBeLessThan(1e-5);
        for (const [name, { a, b }] of lora.modules) {
          const [gradA, gradB] = ["a", "b"].map((factor) => reference.gradients.get(`${name}.${factor}`)!);
          expect(relativeL2(a.gradient!.toFloat32Array(), gradA!.toFloat32Array()), name).toBeLessThan(1e-5);
          expect(relativeL2(b.gradient!.toFloat32Array(), gradB!.toFloat32Array()), name).toBeLessThan(1e-5);
        }
        dispose(reference.gradients);
      });
    });
  });
});

describe.each(["c1_text", "c3_img_2x3"] as const)(
  "%s in bfloat16 is as near as the official code",
  (name) => {
    const fixtures = readFixture(golden(`tiny_cases/${name}.bf16.safetensors`));
    const positions = numbers(readFixture(golden(`tiny_cases/${name}.safetensors`)).label_positions!);
    let half: Model;
    let batch: MicroBatch;
    beforeAll(async () => {
      half = loadModel(golden("tiny"), { dtype: "bfloat16", device: "cpu" });
      batch = await goldenBatch(name);
    });
    afterAll(() => disposeModel(half));

    it("in loss, last hidden states and logits", () => {
      const { loss } = runToEnd(evalStep(half, undefined, batch, DEFAULT_POLICY));
      expect(Math.abs(loss - caseOf(name).bf16!.loss)).toBeLessThan(BF16.loss);
      scope(() => {
        const states = trace(half, undefined, batch);
        const index = fromArray(Int32Array.from(positions), [positions.length], { dtype: "int64" });
        const last = states.get("final_norm")!.indexSelect(0, index).toFloat32Array();
        expect(relativeL2(last, numbers(fixtures.final_norm_label!))).toBeLessThan(BF16.lastHidden);
        expectLogits(logitsAt(half, states, positions), fixtures.logits_label!, BF16.logits);
      });
    });

    it("in loss, logits and gradients with an adapter", () => {
      zeroGradients(lora);
      const { loss } = runToEnd(trainStep(half, lora, batch, DEFAULT_POLICY, { lossScale: 1 }));
      expect(Math.abs(loss - caseOf(name).bf16!.lora_loss)).toBeLessThan(BF16.loss);
      scope(() => {
        const logits = logitsAt(half, trace(half, lora, batch), positions);
        expectLogits(logits, fixtures["lora.logits_label"]!, BF16.logits);
      });
      const gradients = Object.entries(fixtures).filter(([key]) => key.startsWith("lora.grad."));
      expect(gradients.length).toBe(30);
      for (const [key, fixture] of gradients) {
        expect(relativeL2(gradientOf(lora, key.slice("lora.".length)), numbers(fixture)), key).toBeLessThan(
          BF16.gradients,
        );
      }
    });
  },
);

function expectLogits(logits: Tensor, fixture: Fixture, atol: number): void {
  expect(kept(logits, fixture)).toMatchArray(numbers(fixture), { atol });
}

/**
 * Returns a gradient by its PEFT key, for example
 * "grad.base_model.model.model.layers.0.attention.wqkv.lora_A.weight".
 */
function gradientOf({ modules }: Lora, key: string): Float32Array {
  const [, name, factor] = /model\.(layers\..*)\.lora_([AB])/.exec(key)!;
  const module = modules.get(name!)!;
  return (factor === "A" ? module.a.gradient! : module.b.gradient!).toFloat32Array();
}

function relativeL2(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let difference = 0;
  let norm = 0;
  for (let index = 0; index < actual.length; index++) {
    difference += (actual[index]! - expected[index]!) ** 2;
    norm += expected[index]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

/**
 * Returns the samples of a right-padded batch: packed without the padding, or one after the other with it.
 */
function officialBatch(fixtures: Record<string, Fixture>, padding: "packed" | "padded"): MicroBatch {
  const [rows, width] = fixtures.input_ids!.shape as [number, number];
  const field = (name: string): number[] => Array.from(numbers(fixtures[name]!));
  const [ids, labels, mask] = [field("input_ids"), field("labels"), field("attention_mask")];
  const parts = Array.from({ length: rows }, (_, row) => {
    const real = mask.slice(row * width, (row + 1) * width).reduce((sum, bit) => sum + bit, 0);
    const tokens = padding === "packed" ? real : width;
    const cut = (values: number[]): number[] => values.slice(row * width, row * width + tokens);
    return { tokens, ids: cut(ids), targets: [...cut(labels).slice(1), -100] };
  });
  const targets = Int32Array.from(parts.flatMap((part) => part.targets));
  return {
    inputIds: Int32Array.from(parts.flatMap((part) => part.ids)),
    targets,
    sampleTokens: parts.map(({ tokens }) => tokens),
    imageSlices: [],
    images: [],
    samples: parts.map((_, index) => ({ file: "c7", index })),
    labelTokens: targets.filter((target) => target !== -100).length,
    epoch: 0,
    position: { next: 0, waiting: [] },
  };
}
