import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../src/checkpoint/peft.ts";
import type { MicroBatch } from "../src/data/batches.ts";
import { disposeLora, type Lora, loraFromAdapter, zeroGradients } from "../src/models/lora.ts";
import { disposeModel, loadModel, type Model } from "../src/models/weights.ts";
import { DEFAULT_POLICY } from "../src/step/policy.ts";
import { evalStep, trainStep } from "../src/step/step.ts";
import { scope, type Tensor } from "../src/torch/tensor.ts";
import { type Fixture, readFixture } from "./fixtures.ts";
import { GOLDEN_CASES, type GoldenCase, goldenBatch } from "./goldenBatch.ts";
import { logitsAt, trace } from "./hiddenStates.ts";
import { runToEnd } from "./randomModel.ts";
import { golden } from "./shared.ts";

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

/** What the fixture kept of a tensor. */
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
      const logits = logitsAt(model, states, numbers(expected.label_positions!));
      expect(kept(logits, expected.logits_label!)).toMatchArray(numbers(expected.logits_label!), {
        atol: ATOL,
      });
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
  });
});

describe("samples packed into one micro-batch", () => {
  it("have the loss and gradients of the samples one by one, each weighted by its labels", async () => {
    const names = ["c1_text", "c2_img_1x1", "c4_img_3x1"] as const;
    const packed = await goldenBatch(...names);
    zeroGradients(lora);
    const whole = runToEnd(trainStep(model, lora, packed, DEFAULT_POLICY, { lossScale: packed.labelTokens }));
    const together = scope(() => [...lora.modules.values()].map(({ gradA }) => gradA!.toFloat32Array()));
    zeroGradients(lora);
    let lossSum = 0;
    for (const name of names) {
      const batch = await goldenBatch(name);
      lossSum += runToEnd(
        trainStep(model, lora, batch, DEFAULT_POLICY, { lossScale: batch.labelTokens }),
      ).lossSum;
    }
    expect(lossSum).toBeCloseTo(whole.lossSum, 3);
    [...lora.modules.values()].forEach(({ gradA }, index) => {
      expect(relativeL2(gradA!.toFloat32Array(), together[index]!)).toBeLessThan(1e-5);
    });
  });

  it("have the loss of the official right-padded batch", () => {
    const fixtures = readFixture(golden("tiny_cases/c7_text_batch2_padded.safetensors"));
    const batch = paddedBatch(fixtures);
    const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
    expect(Math.abs(loss - caseOf("c7_text_batch2_padded").loss)).toBeLessThan(1e-5);
  });
});

describe("in bfloat16", () => {
  it.each(["c1_text", "c3_img_2x3"] as const)(
    "loss and gradients of %s are as near as the official ones",
    async (name) => {
      const half = loadModel(golden("tiny"), { dtype: "bfloat16", device: "cpu" });
      try {
        const fixtures = readFixture(golden(`tiny_cases/${name}.bf16.safetensors`));
        zeroGradients(lora);
        const { loss } = runToEnd(
          trainStep(half, lora, await goldenBatch(name), DEFAULT_POLICY, { lossScale: 1 }),
        );
        expect(Math.abs(loss - caseOf(name).lora!.loss)).toBeLessThan(0.01);
        const gradients = Object.entries(fixtures).filter(([key]) => key.startsWith("lora.grad."));
        expect(gradients.length).toBe(30);
        for (const [key, fixture] of gradients) {
          expect(relativeL2(gradientOf(lora, key.slice("lora.".length)), numbers(fixture)), key).toBeLessThan(
            0.08,
          );
        }
      } finally {
        disposeModel(half);
      }
    },
  );
});

/** A gradient by its PEFT key: "grad.base_model.model.model.layers.0.attention.wqkv.lora_A.weight". */
function gradientOf({ modules }: Lora, key: string): Float32Array {
  const [, name, factor] = /model\.(layers\..*)\.lora_([AB])/.exec(key)!;
  const module = modules.get(name!)!;
  return (factor === "A" ? module.gradA! : module.gradB!).toFloat32Array();
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

/** The samples of a right-padded batch, packed without the padding. */
function paddedBatch(fixtures: Record<string, Fixture>): MicroBatch {
  const [rows, width] = fixtures.input_ids!.shape as [number, number];
  const field = (name: string): number[] => Array.from(numbers(fixtures[name]!));
  const [ids, labels, mask] = [field("input_ids"), field("labels"), field("attention_mask")];
  const parts = Array.from({ length: rows }, (_, row) => {
    const tokens = mask.slice(row * width, (row + 1) * width).reduce((sum, bit) => sum + bit, 0);
    const cut = (values: number[]): number[] => values.slice(row * width, row * width + tokens);
    return { tokens, ids: cut(ids), targets: [...cut(labels).slice(1), -100] };
  });
  const targets = Int32Array.from(parts.flatMap((part) => part.targets));
  return {
    inputIds: Int32Array.from(parts.flatMap((part) => part.ids)),
    targets,
    positions: Int32Array.from(parts.flatMap(({ tokens }) => Array.from({ length: tokens }, (_, at) => at))),
    sampleTokens: parts.map(({ tokens }) => tokens),
    imageSlices: [],
    images: [],
    samples: parts.map((_, index) => ({ file: "c7", index })),
    labelTokens: targets.filter((target) => target !== -100).length,
    epoch: 0,
    dataWaitMs: 0,
    position: { next: 0, waiting: [] },
  };
}
