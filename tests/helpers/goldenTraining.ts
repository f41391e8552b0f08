/** Tests that a family learns and merges as in transformers and PEFT, from records of token ids. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { mergeCheckpoint } from "../../src/checkpoint/merge.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { scope } from "../../src/torch/tensor.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { readRecords, type StepRecord } from "../../src/train/folder/runLog.ts";
import { train } from "../../src/train/loop/trainer.ts";
import { integers } from "./fixtures.ts";
import { goldenFamily, numbersOf, withSlots } from "./goldenFamily.ts";
import { logitsAt, trace } from "./hiddenStates.ts";
import { runToEnd } from "./randomModel.ts";
import { golden } from "./shared.ts";

const TOLERANCE = 1e-5;
const SLOW_MACHINE_MS = 240_000;
interface GoldenStep {
  step: number;
  micro_losses: number[];
  loss: number;
  grad_norm_before_clip: number;
  lr: number;
}
export interface GoldenTraining {
  folder: string;
  /** The id of tokens of pictures. */
  image: number;
  /** A case with a picture, which the merged checkpoint computes. */
  mergedCase: string;
  /** Names of modules as PEFT has them: one that the adapter's configuration names, and one of the tower. */
  learned: string;
  tower: string;
}

/** Describes five steps of the official code, and a merged checkpoint. */
export function describeGoldenTraining({ folder, image, mergedCase, learned, tower }: GoldenTraining): void {
  const family = goldenFamily(folder, image);
  const official = JSON.parse(readFileSync(golden(`${folder}/train/train.json`), "utf8")) as {
    steps: GoldenStep[];
  };

  const root = mkdtempSync(join(tmpdir(), "lorafit-golden-"));
  afterAll(() => rmSync(root, { recursive: true }));

  /** Writes cases as records of ids, where -200 stands for all tokens of a picture. */
  function writeRecords(name: string, cases: readonly string[]): string {
    const records = cases.map((known) => {
      const { images } = family.cases.find(({ name }) => name === known)!;
      const given = family.fixtures(`cases/${known}.safetensors`);
      const { ids, labels } = withSlots(integers(given, "input_ids"), integers(given, "labels"), image);
      const files = images.map(({ file }) => golden(`${folder}/cases/${file}`));
      return JSON.stringify({ id: known, input_ids: [...ids], labels: [...labels], images: files });
    });
    const file = join(root, name);
    writeFileSync(file, `${records.join("\n")}\n`);
    return file;
  }

  describe("five steps of the official code", () => {
    const output = join(root, "run");
    const events: RunFact[] = [];
    beforeAll(async () => {
      const options = {
        model: golden(`${folder}/tiny`),
        adapter: golden(`${folder}/train/initial_adapter`),
        data: writeRecords("train.jsonl", [mergedCase, "c1_text", "c3_two_images", "c4_multi_turn"]),
        output,
        ...{ shuffle: false, lora_dropout: 0, learning_rate: 5e-4, warmup_steps: 1, max_steps: 5 },
        ...{ gradient_accumulation: 2, save_every: 5, image_compat: "official" as const, device: "cpu" },
      };
      await train(options, { sinks: [{ take: (fact) => void events.push(fact) }] });
    }, SLOW_MACHINE_MS);

    it("have its losses, norms and learning rates", async () => {
      const losses = events.flatMap((event) => (event.fact === "microBatch" ? [event.loss] : []));
      expect(losses).toMatchArray(
        official.steps.flatMap(({ micro_losses }) => micro_losses),
        { atol: TOLERANCE },
      );
      const records = await readRecords<StepRecord>(join(output, "steps.jsonl"));
      const column = (of: (step: GoldenStep) => number): number[] => official.steps.map(of);
      expect(records.map(({ loss }) => loss)).toMatchArray(
        column(({ loss }) => loss),
        { atol: TOLERANCE },
      );
      expect(records.map(({ gradNorm }) => gradNorm)).toMatchArray(
        column((step) => step.grad_norm_before_clip),
        { rtol: TOLERANCE },
      );
      expect(records.map(({ lr }) => lr)).toMatchArray(
        column(({ lr }) => lr),
        { atol: 1e-12 },
      );
    });

    it("leave the official factors, under the keys of PEFT with transformers 4.52 or newer", () => {
      const [ours, theirs] = [join(output, "adapter"), golden(`${folder}/train/final_adapter`)].map(
        (folder) => openSafetensors(join(folder, "adapter_model.safetensors")),
      );
      expect([...ours!.names].sort()).toEqual([...theirs!.names].sort());
      scope(() => {
        for (const name of theirs!.names) {
          const values = theirs!.tensor(name).toFloat32Array();
          expect(ours!.tensor(name).toFloat32Array(), name).toMatchArray(values, { atol: TOLERANCE });
        }
      });
      const config = JSON.parse(readFileSync(join(output, "adapter", "adapter_config.json"), "utf8"));
      expect(isTarget(learned, config.target_modules)).toBe(true);
      expect(isTarget(tower, config.target_modules)).toBe(false);
    });
  });

  it("a merged checkpoint has the official logits and loss", async () => {
    const expected = family.fixtures(`train/merged_${mergedCase}.safetensors`);
    const { loss_merged } = JSON.parse(readFileSync(golden(`${folder}/train/merged.json`), "utf8"));
    await mergeCheckpoint(
      golden(`${folder}/tiny`),
      golden(`${folder}/train/final_adapter`),
      join(root, "merged"),
    );
    const model = loadModel(join(root, "merged"), { dtype: "float32", device: "cpu" });
    const batch = await family.batch(mergedCase, model.config);
    const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
    expect(Math.abs(loss - loss_merged)).toBeLessThan(TOLERANCE);
    scope(() => {
      const positions = integers(family.fixtures(`cases/${mergedCase}.safetensors`), "label_positions");
      const logits = logitsAt(model, trace(model, undefined, batch), positions).toFloat32Array();
      expect(logits).toMatchArray(numbersOf(expected.logits_label_merged!), { atol: 1e-4 });
    });
    disposeModel(model);
  });
}

/** Returns whether PEFT gives a module factors: by a pattern for its whole name, or by how its name ends. */
function isTarget(module: string, targets: string | string[]): boolean {
  if (typeof targets === "string") return new RegExp(`^(?:${targets})$`).test(module);
  return targets.some((ending) => module.endsWith(`.${ending}`));
}
