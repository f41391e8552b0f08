/**
 * Training in float16: losses follow those in float32, and overflowing gradients cost a step, not the run.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, expect, it, vi } from "vitest";
import { readRecords, type StepRecord } from "../../src/train/folder/runLog.ts";
import { makeWorkplace, noticesOf, runWith } from "../faults/trainRun.ts";
import { GOLDEN_DATA } from "../helpers/goldenBatch.ts";
import { golden } from "../helpers/shared.ts";

const first = vi.hoisted(() => ({ scale: undefined as number | undefined }));
vi.mock("../../src/step/optimizer/lossScale.ts", async (original) => {
  const own = await original<typeof import("../../src/step/optimizer/lossScale.ts")>();
  const firstLossScale: typeof own.firstLossScale = (dtype) => own.firstLossScale(dtype, first.scale);
  return { ...own, firstLossScale };
});

const { folder, input } = await makeWorkplace();
const lossesOf = async (output: string): Promise<number[]> =>
  (await readRecords<StepRecord>(join(output, "steps.jsonl"))).map(({ loss }) => loss);

beforeEach(() => {
  first.scale = undefined;
});

it("follows the losses of float32 on the golden model", async () => {
  const losses = [];
  for (const dtype of ["fp32", "fp16"] as const) {
    const output = join(folder, `golden-${dtype}`);
    const { events: _, ...end } = await runWith({
      ...{
        model: golden("tiny"),
        adapter: golden("train/initial_adapter"),
        data: GOLDEN_DATA,
        output,
        dtype,
      },
      ...{ shuffle: false, lora_dropout: 0, learning_rate: 5e-4, warmup_steps: 1, max_steps: 6 },
      ...{ gradient_accumulation: 2, save_every: 100, device: "cpu" as const },
    });
    expect(end).toMatchObject({ result: { ended: "finished" } });
    losses.push(await lossesOf(output));
  }
  const [wide, half] = losses as [number[], number[]];
  expect(half).toHaveLength(wide.length);
  half.forEach((loss, step) => {
    expect(Math.abs(loss - wide[step]!)).toBeLessThan(0.01);
  });
}, 240_000);

it("skips steps whose gradients overflow, halves the scale each time, and an interrupted run ends with the same bytes", async () => {
  first.scale = 2 ** 20;
  const options = { ...input, dtype: "fp16" as const, max_steps: 12 };
  const whole = join(folder, "whole");
  const { events, ...end } = await runWith({ ...options, output: whole });
  expect(end).toMatchObject({ result: { ended: "finished", step: 12 } });
  const skips = noticesOf(events).filter((text) => text.includes("overflow float16"));
  expect(skips[0]).toContain(`the loss scale is ${2 ** 19} from here on`);
  expect(skips.length).toBeGreaterThan(1);
  expect(skips.length).toBeLessThan(12);
  expect(await lossesOf(whole)).toHaveLength(12 - skips.length);
  expect(events.filter(({ fact }) => fact === "defect")).toEqual([]);

  const parted = join(folder, "parted");
  await runWith({ ...options, output: parted }, { stopAfterMicroBatches: skips.length + 1 });
  await runWith({ ...options, output: parted, resume: true });
  const adapter = (output: string): Buffer =>
    readFileSync(join(output, "adapter", "adapter_model.safetensors"));
  expect(adapter(parted).equals(adapter(whole))).toBe(true);
}, 240_000);
