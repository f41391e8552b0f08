/**
 * Results that arrive late, as on a card. Nothing is lost or spoilt by what happens between a micro-batch and
 * its results.
 */
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { UserError } from "../../src/errors.ts";
import { momentTensors } from "../../src/step/optimizer/savedState.ts";
import { liveTensors, memoryStats } from "../../src/torch/device.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { readRecords, type StepRecord } from "../../src/train/folder/runLog.ts";
import type { Run } from "../../src/train/loop/run.ts";
import { makeWorkplace, resultOf, runWith } from "./trainRun.ts";

const card = vi.hoisted(() => ({ isThere: true }));
vi.mock("../../src/torch/device.ts", async (original) => ({
  ...(await original<typeof import("../../src/torch/device.ts")>()),
  computesBeside: (device: string) => card.isThere && device !== "meta",
}));

/** Makes the loss of one sample, and so all its gradients, not a number. */
const bad = vi.hoisted(() => ({ seen: 0, microBatch: Number.POSITIVE_INFINITY }));
vi.mock("../../src/nn/loss.ts", async (original) => {
  const own = await original<typeof import("../../src/nn/loss.ts")>();
  const headLoss_: typeof own.headLoss_ = (states, ...inputs) => {
    const losses = own.headLoss_(states, ...inputs);
    if (inputs[2] === undefined || states.device === "meta" || ++bad.seen !== bad.microBatch) return losses;
    states.fill_(Number.NaN);
    return losses.fill_(Number.NaN);
  };
  return { ...own, headLoss_ };
});

/** Records whether each update changed factors or moments. */
const updates = vi.hoisted(() => ({ changed: [] as boolean[] }));
vi.mock("../../src/train/loop/update.ts", async (original) => {
  const own = await original<typeof import("../../src/train/loop/update.ts")>();
  const updateWithin: typeof own.updateWithin = (run, ...inputs) => {
    const before = trainedBytes(run);
    own.updateWithin(run, ...inputs);
    updates.changed.push(trainedBytes(run) !== before);
  };
  return { ...own, updateWithin };
});

function trainedBytes({ loaded: { optimizer } }: Pick<Run, "loaded">): string {
  const moments = momentTensors(optimizer).map(([, tensor]) => tensor);
  const tensors: Tensor[] = [...optimizer.parameters.map(({ value }) => value), ...moments];
  return scope(() => tensors.map((x) => Buffer.from(x.toBytes()).toString("base64")).join());
}

const { folder, input, pictures } = await makeWorkplace();
let count = 0;
let output: string;
beforeEach(() => {
  output = join(folder, `run-${count++}`);
  card.isThere = true;
  Object.assign(bad, { seen: 0, microBatch: Number.POSITIVE_INFINITY });
  updates.changed.length = 0;
});
type Failed = { error: UserError; events: { fact: string }[] };
const stepsOf = async (): Promise<number[]> =>
  (await readRecords<StepRecord>(join(output, "steps.jsonl"))).map(({ step }) => step);

describe("a sample whose loss is not a number", () => {
  const options = { max_steps: 6, lora_dropout: 0.1 };

  /** `good` is the last checkpoint whose factors gave a finite loss. */
  it.each([
    { accumulation: 1, microBatch: 4, step: 4, changed: [true, true, true, false], good: "checkpoint-2" },
    { accumulation: 2, microBatch: 3, step: 2, changed: [true], good: undefined },
    { accumulation: 2, microBatch: 4, step: 2, changed: [true, false], good: "checkpoint-1" },
  ])(
    "is named, and changes no factor and no moment: micro-batch $microBatch, accumulation $accumulation",
    async ({ accumulation, microBatch, step, changed, good }) => {
      const before = [memoryStats("cpu").liveBytes, liveTensors()];
      bad.microBatch = microBatch;
      const given = { ...options, gradient_accumulation: accumulation, save_every: 1, output };
      const { error, events } = (await runWith({ ...input, ...given })) as Failed;
      const sample = microBatch - 1;
      const found = good
        ? `The last good checkpoint is ${join(output, good)}`
        : "There is no good checkpoint";
      expect(error.message).toContain(
        `Step ${step}: the loss of ${input.data}:${sample + 1}: sample ${sample} is not a finite number. ${found}`,
      );
      expect(updates.changed).toEqual(changed);
      const steps = Array.from({ length: step - 1 }, (_, index) => index + 1);
      expect(await stepsOf()).toEqual(steps);
      expect(events.filter(({ fact }) => fact === "step")).toHaveLength(steps.length);
      expect([memoryStats("cpu").liveBytes, liveTensors()]).toEqual(before);
    },
  );

  it("is named also where the next picture is gone, which was found out later", async () => {
    bad.microBatch = 2;
    const hidden = pictures.map((path) => [path, `${path}.away`] as const);
    const onFact = ({ fact }: { fact: string }): void => {
      if (fact === "start") for (const [path, away] of hidden) renameSync(path, away);
    };
    const { error } = (await runWith({ ...input, ...options, output }, { onFact })) as Failed;
    for (const [path, away] of hidden) renameSync(away, path);
    expect(error.message).toContain("Step 2: the loss of");
    expect(existsSync(join(output, "checkpoint-1"))).toBe(false);
    expect(updates.changed).toEqual([true, false]);
  });
});

describe("before it is told", () => {
  const options = { max_steps: 4, gradient_accumulation: 2, lora_dropout: 0.1, eval_every: 2 };
  const given = { ...input, ...options, eval_data: input.data };

  it("nothing is saved, evaluated or interrupted: all ends with the bytes of a run that tells at once", async () => {
    card.isThere = false;
    const atOnce = join(folder, "at-once");
    await runWith({ ...given, output: atOnce });
    card.isThere = true;
    const late = join(folder, "late");
    await runWith({ ...given, save_every: 1, output: late });
    expect(resultOf(late)).toEqual(resultOf(atOnce));

    let stops = 0;
    for (let resume = false; ; resume = true) {
      const outcome = await runWith({ ...given, output, resume }, { stopAfterMicroBatches: 1 });
      if (!("result" in outcome)) throw outcome.error;
      if (outcome.result.ended === "finished") break;
      const told = outcome.events.filter(({ fact }) => fact === "microBatch");
      expect(told.length).toBe(2); // the second was queued before the first was reported
      stops++;
    }
    expect(stops).toBeGreaterThan(1);
    expect(resultOf(output)).toEqual(resultOf(atOnce));
  });
});
