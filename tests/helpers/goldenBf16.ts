/** Tests that a family in bfloat16 is as near to float32 as the official code in bfloat16 is. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { disposeLora, type Lora, loraFromAdapter, zeroGradients } from "../../src/models/lora.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { scope } from "../../src/torch/tensor.ts";
import { goldenFamily, gradientOf, numbersOf, relativeL2 } from "./goldenFamily.ts";
import { trace } from "./hiddenStates.ts";
import { runToEnd } from "./randomModel.ts";
import { golden } from "./shared.ts";

interface HalfCase {
  grad_rel_total: number;
  grad_rel_worst_tensor: number;
  image_embeds_rel?: number;
}

/** The official code's largest deviation over all of its cases, open and held back. */
const LOSS = 0.017;

/** Describes a family, whose data are in a folder; image: the id of tokens of pictures. */
export function describeGoldenBf16(folder: string, image: number): void {
  const family = goldenFamily(folder, image);
  const { cases } = JSON.parse(readFileSync(golden(`${folder}/cases/bf16.json`), "utf8")) as {
    cases: Record<string, HalfCase>;
  };
  let model: Model;
  let lora: Lora;
  beforeAll(() => {
    model = loadModel(golden(`${folder}/tiny`), { dtype: "bfloat16", device: "cpu" });
    const adapter = golden(`${folder}/tiny_lora`);
    lora = scope(() =>
      loraFromAdapter(model.config, readAdapter(adapter), { device: "cpu", gradients: "fp32" }),
    );
  });
  afterAll(() => {
    disposeModel(model);
    disposeLora(lora);
  });

  describe.each(Object.entries(cases))("%s", (name, official) => {
    const known = family.cases.find((each) => each.name === name)!;
    let batch: MicroBatch;
    beforeAll(async () => {
      batch = await family.batch(name, model.config);
    });

    it("in losses and image tokens", () => {
      const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
      expect(Math.abs(loss - known.loss)).toBeLessThan(LOSS);
      if (official.image_embeds_rel === undefined) return;
      scope(() => {
        const embedded = trace(model, undefined, batch).get("inputs_embeds")!.toFloat32Array();
        const C = model.config.hidden;
        const tokens = batch.imageSlices.flatMap(({ start, end }) => [...embedded.slice(start * C, end * C)]);
        const exact = numbersOf(family.fixtures(`cases/${name}.safetensors`).image_embeds!);
        expect(relativeL2(tokens, exact)).toBeLessThan(1.25 * official.image_embeds_rel!);
      });
    });

    it("in the gradients of every factor", () => {
      zeroGradients(lora);
      const { loss } = runToEnd(trainStep(model, lora, batch, DEFAULT_POLICY, { lossScale: 1 }));
      expect(Math.abs(loss - known.lora.loss)).toBeLessThan(LOSS);
      const gradients = Object.entries(family.fixtures(`cases/${name}.lora.safetensors`)).filter(([key]) =>
        key.startsWith("grad."),
      );
      const ours = gradients.flatMap(([key]) => [...gradientOf(lora, key)]);
      const exact = gradients.flatMap(([, fixture]) => numbersOf(fixture));
      expect(relativeL2(ours, exact)).toBeLessThan(1.25 * official.grad_rel_total);
      for (const [key, fixture] of gradients)
        expect(relativeL2(gradientOf(lora, key), numbersOf(fixture)), key).toBeLessThan(
          1.5 * official.grad_rel_worst_tensor,
        );
    });
  });
}
