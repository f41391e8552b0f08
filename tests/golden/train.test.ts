import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { scope } from "../../src/torch/tensor.ts";
import { readRecords, type StepRecord } from "../../src/train/folder/runLog.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { train } from "../../src/train/loop/trainer.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { GOLDEN_DATA } from "../helpers/goldenBatch.ts";
import { golden } from "../helpers/shared.ts";

interface GoldenStep {
  step: number;
  micro_losses: number[];
  loss: number;
  grad_norm_before_clip: number;
  lr: number;
}
const expected: GoldenStep[] = JSON.parse(readFileSync(golden("train/train.json"), "utf8")).steps;
const tolerance = 1e-5;
const SLOW_MACHINE_MS = 240_000;

const output = mkdtempSync(join(tmpdir(), "train-golden-"));
afterAll(() => rmSync(output, { recursive: true }));

/** Options of the run in train/train.json. */
const options: TrainInput = {
  model: golden("tiny"),
  adapter: golden("train/initial_adapter"),
  data: GOLDEN_DATA,
  output,
  shuffle: false,
  lora_dropout: 0,
  learning_rate: 5e-4,
  warmup_steps: 1,
  max_steps: 10,
  gradient_accumulation: 2,
  save_every: 2,
  keep_checkpoints: 9,
  device: "cpu",
};

describe("ten steps of the official code", () => {
  const events: RunFact[] = [];
  beforeAll(async () => {
    await train(options, { sinks: [{ take: (fact) => void events.push(fact) }] });
  }, SLOW_MACHINE_MS);

  it("follows the loss of every micro-batch", () => {
    const losses = events.flatMap((event) => (event.fact === "microBatch" ? [event.loss] : []));
    expect(losses).toMatchArray(
      expected.flatMap(({ micro_losses }) => micro_losses),
      { atol: tolerance },
    );
  });

  it("follows loss, gradient norm and learning rate of every step", async () => {
    const records = await readRecords<StepRecord>(join(output, "steps.jsonl"));
    expect(records.map(({ step }) => step)).toEqual(expected.map(({ step }) => step));
    const column = (of: (record: GoldenStep) => number) => expected.map(of);
    expect(records.map(({ loss }) => loss)).toMatchArray(
      column(({ loss }) => loss),
      { atol: tolerance },
    );
    expect(records.map(({ gradNorm }) => gradNorm)).toMatchArray(
      column(({ grad_norm_before_clip }) => grad_norm_before_clip),
      { rtol: tolerance },
    );
    expect(records.map(({ lr }) => lr)).toMatchArray(
      column(({ lr }) => lr),
      { atol: 1e-19 },
    );
  });

  it.each([
    ["after two steps", "checkpoint-2", "train/params_after_step2.safetensors"],
    ["at the end", "adapter", "train/final_adapter/adapter_model.safetensors"],
  ])("has the official factors %s", (_, folder, reference) => {
    const [ours, theirs] = [join(output, folder, "adapter_model.safetensors"), golden(reference)].map(
      openSafetensors,
    );
    expect([...ours!.names].sort()).toEqual([...theirs!.names].sort());
    scope(() => {
      for (const name of theirs!.names) {
        expect(ours!.tensor(name).toFloat32Array(), name).toMatchArray(
          theirs!.tensor(name).toFloat32Array(),
          {
            atol: tolerance,
          },
        );
      }
    });
  });
});
