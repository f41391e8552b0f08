/** A run is a function of its options and data: whether, when and how often it is stopped changes no byte of it. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { checkpointFolders } from "../../src/train/checkpoints.ts";
import type { TrainInput } from "../../src/train/options.ts";
import { POLICY_FILE } from "../../src/train/runLog.ts";
import { makeWorkplace, noticesOf, resultOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const listed = join(folder, "data.txt");
writeFileSync(listed, `${input.data} 0.005\n`);

/** Runs whose course differs in all that a checkpoint must carry. */
const RUNS: Record<string, Partial<TrainInput>> = {
  "in file order": { max_steps: 9 },
  "shuffled, with dropout": { max_steps: 9, shuffle: true, lora_dropout: 0.3 },
  "stopped within steps": { max_steps: 4, gradient_accumulation: 3, lora_dropout: 0.1 },
  "with a last step that is short, across epochs": { epochs: 2, gradient_accumulation: 4, shuffle: true },
  "several samples a micro-batch": {
    max_steps: 6,
    batch_size: 3,
    loss_scale: "batch",
    gradient_accumulation: 2,
  },
  packed: { epochs: 3, pack: true, max_length: 360, shuffle: true },
  "with the official sampling": { data: listed, official_sampling: true, max_steps: 8 },
  "in bfloat16": { max_steps: 5, dtype: "bf16", lora_dropout: 0.05 },
  "with evaluations": { max_steps: 4, eval_data: input.data, eval_every: 2, learning_rate: 0.1 },
};

describe.each(Object.entries(RUNS))("a run %s", (name, options) => {
  const outputOf = (kind: string): string => join(folder, `${name} ${kind}`);
  const run = (kind: string, more: Partial<TrainInput> = {}, stopAfterMicroBatches?: number) =>
    runWith({ ...input, ...options, ...more, output: outputOf(kind) } as TrainInput, {
      ...(stopAfterMicroBatches && { stopAfterMicroBatches }),
    });

  it("ends with the same bytes when it is done again, and when it is stopped after every other micro-batch", async () => {
    expect(await run("whole")).toMatchObject({ result: { ended: "finished" } });
    expect(await run("again")).toMatchObject({ result: { ended: "finished" } });
    expect(resultOf(outputOf("again"))).toEqual(resultOf(outputOf("whole")));

    let stops = 0;
    for (;;) {
      const part = await run("stopped", { resume: true }, 2);
      if (!("result" in part)) throw part.error;
      if (part.result.ended === "finished") break;
      stops++;
    }
    expect(stops).toBeGreaterThan(1);
    expect(resultOf(outputOf("stopped"))).toEqual(resultOf(outputOf("whole")));
  });
});

it("another seed gives another run", async () => {
  for (const seed of [1, 2]) {
    await runWith({ ...input, max_steps: 1, seed, output: join(folder, `seed ${seed}`) });
  }
  expect(resultOf(join(folder, "seed 1"))).not.toEqual(resultOf(join(folder, "seed 2")));
});

it("an interruption during the last evaluation leaves a run to go on with", async () => {
  const output = join(folder, "evaluated");
  const options = { ...input, max_steps: 2, eval_data: input.data, output };
  expect(await runWith(options, { stopAfterMicroBatches: 2 })).toMatchObject({
    result: { ended: "interrupted" },
  });
  expect(await runWith({ ...options, resume: true })).toMatchObject({ result: { ended: "finished" } });
  expect(resultOf(output)).toMatchObject({ evals: [{ step: 2 }] });
});

describe("a run that was folded", () => {
  const stopped = async (name: string): Promise<TrainInput & { output: string }> => {
    const options = { ...input, max_steps: 3, output: join(folder, name) };
    await runWith({ ...options, policy: { plora: "folded" } }, { stopAfterMicroBatches: 1 });
    return { ...options, resume: true };
  };
  const ploraOfRun = (output: string): string =>
    JSON.parse(readFileSync(join(output, POLICY_FILE), "utf8")).plora;

  it.each([{ memory: "1GiB" }, { memory: "2GiB" }, {}])(
    "goes on folded with %o, and says nothing",
    async (room) => {
      const options = await stopped(`folded ${room.memory}`);
      const again = await runWith({ ...options, ...room }, { stopAfterMicroBatches: 1 });
      expect(ploraOfRun(options.output)).toMatch(/^folded/);
      const last = await runWith({ ...options, ...room });
      expect(last).toMatchObject({ result: { ended: "finished" } });
      expect(ploraOfRun(options.output)).toMatch(/^folded/);
      expect(noticesOf([...again.events, ...last.events]).join()).not.toContain("PLoRA");
    },
  );

  it("goes on apart where the policy says so, which is told once", async () => {
    const options = { ...(await stopped("apart")), policy: { plora: "apart" } };
    const told = expect.stringMatching(/^PLoRA was folded into .* no longer is, as the policy says/);
    expect(noticesOf((await runWith(options, { stopAfterMicroBatches: 1 })).events)).toEqual([told]);
    expect(noticesOf((await runWith(options)).events)).toEqual([]);
    expect(ploraOfRun(options.output)).toBe("apart");
  });
});

it("keeps the newest checkpoints, and no more than asked for", async () => {
  const output = join(folder, "kept");
  await runWith({ ...input, max_steps: 7, save_every: 2, keep_checkpoints: 3, output });
  const kept = (await checkpointFolders(output)).map((path) => path.slice(output.length + 1));
  expect(kept).toEqual(["checkpoint-4", "checkpoint-6", "checkpoint-7"]);
});

it("refuses to go on as another run, and names what differs", async () => {
  const output = join(folder, "other");
  await runWith({ ...input, max_steps: 4, output }, { stopAfterMicroBatches: 2 });
  const changed = { ...input, max_steps: 4, learning_rate: 0.5, output, resume: true };
  const outcome = await runWith(changed);
  expect(outcome).toMatchObject({
    error: { message: expect.stringContaining("learning_rate was 0.01, is 0.5") },
  });
  expect(await runWith({ ...input, max_steps: 4, output })).toMatchObject({
    error: { message: expect.stringMatching(/holds a run that stopped at step 2 of 4/) },
  });
});
