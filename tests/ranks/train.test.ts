/** Training by several real processes: the adapter is that of one process. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { scope } from "../../src/torch/tensor.ts";
import type { StepRecord } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, makeWorkplace, runWith } from "../faults/trainRun.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import type { RankRun, TrainArgs } from "./train.rank.ts";

const { folder, input } = await makeWorkplace();
const body = new URL("./train.rank.ts", import.meta.url);
/** Options of all runs here: four micro-batches a step, in an order of their own, with dropout. */
const usual = {
  ...input,
  ...{ max_steps: 20, gradient_accumulation: 4, shuffle: true, lora_dropout: 0.2, max_grad_norm: 0.5 },
};

let runs = 0;
const newOutput = (): string => join(folder, `run ${runs++}`);

function ranksWith(count: number, args: TrainArgs): Promise<RankRun[]> {
  return runRanks<RankRun>(count, body, { args });
}

/** Trains in one process, and returns the output folder. */
async function alone(options: Partial<TrainInput> = {}): Promise<string> {
  const output = newOutput();
  const ended = await runWith({ ...usual, ...options, output } as TrainInput);
  if ("error" in ended) throw ended.error;
  return output;
}

/** Trains by ranks, and returns the output folder. */
async function together(count: number, options: Partial<TrainInput> = {}): Promise<string> {
  const output = newOutput();
  await ranksWith(count, { options: { ...usual, ...options, output } as TrainInput });
  return output;
}

const adapterOf = (output: string): unknown => hashesBelow(join(output, "adapter"));

/** Largest difference of two adapters, as a share of the largest element of its tensor. */
function differenceOf(one: string, other: string): number {
  const files = [one, other].map((output) =>
    openSafetensors(join(output, "adapter", "adapter_model.safetensors")),
  );
  let most = 0;
  for (const name of files[0]!.names) {
    const [left, right] = files.map(
      (file) => new Float32Array(scope(() => file.tensor(name).toBytes()).slice().buffer),
    );
    const scale = left!.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
    for (const [at, value] of left!.entries())
      most = Math.max(most, Math.abs(value - right![at]!) / (scale || 1));
  }
  for (const file of files) file.close();
  return most;
}

const stepsOf = (output: string): StepRecord[] =>
  readFileSync(join(output, "steps.jsonl"), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));

describe.each<[string, Partial<TrainInput>]>([
  ["by micro-batches", {}],
  ["by labels, with several samples a micro-batch", { loss_scale: "batch", batch_size: 2 }],
])("the adapter of ranks, weighted %s,", (_, options) => {
  it("equals that of one process after 20 steps, to 1e-6, and has the same bytes for the same number", async () => {
    const one = await alone(options);
    for (const count of [2, 3]) {
      const several = await together(count, options);
      expect(differenceOf(one, several)).toBeLessThan(1e-6);
      expect(differenceOf(one, several)).toBeGreaterThan(0); // it was added up in another order
      const records = stepsOf(several);
      expect(records).toHaveLength(20);
      for (const [index, { loss, tokens, ranks, waitRatio, gradNorm }] of records.entries()) {
        const same = stepsOf(one)[index]!;
        expect(loss).toBeCloseTo(same.loss, 5);
        expect(gradNorm / same.gradNorm).toBeCloseTo(1, 4);
        expect({ tokens, ranks }).toEqual({ tokens: same.tokens, ranks: count });
        expect(waitRatio).toBeGreaterThanOrEqual(0);
        expect(waitRatio).toBeLessThan(1);
      }
    }
    expect(adapterOf(await together(2, options))).toEqual(adapterOf(await together(2, options)));
  });
});

it("with --exact-sum 1, 2, 3 and 4 ranks give the same bytes, in the adapter and in the numbers of the log", async () => {
  const exact = { exact_sum: true, max_steps: 6 };
  const one = await alone(exact);
  const numbersOf = (output: string): unknown =>
    stepsOf(output).map(({ loss, gradNorm, lr, tokens }) => ({ loss, gradNorm, lr, tokens }));
  for (const count of [2, 3, 4]) {
    const several = await together(count, exact);
    expect(adapterOf(several)).toEqual(adapterOf(one));
    expect(numbersOf(several)).toEqual(numbersOf(one));
  }
  expect(differenceOf(one, await alone({ max_steps: 6 }))).toBeLessThan(1e-6);
});
