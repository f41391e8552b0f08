/** A step has the same loss and gradient, however its samples are grouped into micro-batches. */
import { join } from "node:path";
import { expect, it } from "vitest";
import { readRecords, type StepRecord } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();

/** Runs one step over all seven samples. Its loss is the mean over all their labels. */
async function stepOf(name: string, options: Partial<TrainInput>): Promise<StepRecord> {
  const output = join(folder, name);
  const outcome = await runWith({
    ...input,
    max_steps: 1,
    loss_scale: "batch",
    ...options,
    output,
  } as TrainInput);
  expect(outcome).toMatchObject({ result: { ended: "finished" } });
  const [record] = await readRecords<StepRecord>(join(output, "steps.jsonl"));
  return record!;
}

it.each<[string, Partial<TrainInput>]>([
  ["all in one micro-batch", { batch_size: 7 }],
  ["two and two", { batch_size: 2, gradient_accumulation: 4, epochs: 1 }],
  ["packed into one sequence", { pack: true, epochs: 1 }],
  ["packed into several", { pack: true, max_length: 400, gradient_accumulation: 2, epochs: 1 }],
])("%s: loss and gradient norm of the samples one by one", async (name, { epochs, ...options }) => {
  const alone = await stepOf(`${name} alone`, { gradient_accumulation: 7 });
  const together = await stepOf(name, epochs ? { ...options, epochs, max_steps: undefined } : options);
  expect(together.tokens).toBe(alone.tokens);
  expect(together.loss).toBeCloseTo(alone.loss, 5);
  expect(Math.abs(together.gradNorm / alone.gradNorm - 1)).toBeLessThan(1e-5);
});
