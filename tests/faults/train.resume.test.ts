/**
 * A run depends only on its options and data. Whether, when and how often it is stopped changes no byte of
 * its result.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { checkpointFolders } from "../../src/train/folder/checkpoints.ts";
import { OPTIONS_FILE, POLICY_FILE } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { type ClassPolicy, readPolicies } from "../../src/train/options/policyFiles.ts";
import { hashesBelow, makeWorkplace, noticesOf, resultOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const listed = join(folder, "data.txt");
writeFileSync(listed, `${input.data} 0.005\n`);

/** Runs that together use everything that a checkpoint must save. */
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

it("a run that stops where --stop-at-step says ends with the same bytes, and the same checkpoints", async () => {
  const options = {
    ...input,
    max_steps: 9,
    lr_schedule: "cosine",
    warmup_ratio: 0.3,
    lora_dropout: 0.1,
  } as const;
  const data = {
    eval_data: input.data,
    eval_every: 3,
    save_every: 3,
    gradient_accumulation: 2,
    keep_checkpoints: 9,
  };
  const run = (output: string, more: Partial<TrainInput> = {}) =>
    runWith({ ...options, warmup_steps: undefined, ...data, ...more, output: join(folder, output) });
  await run("never stopped");
  const output = join(folder, "stopped at steps");
  for (const stop_at_step of [3, 3, 6]) {
    const checkpoint = join(output, `checkpoint-${stop_at_step}`);
    const { events, ...end } = await run("stopped at steps", { stop_at_step, resume: true });
    expect(end).toEqual({
      result: { ended: "interrupted", step: stop_at_step, checkpoint, reason: "stop_at_step" },
    });
    expect(events.at(-1)).toMatchObject({ fact: "end", reason: "stop_at_step" });
    expect(readFileSync(join(output, OPTIONS_FILE), "utf8")).not.toContain("stop_at_step");
  }
  expect(await run("stopped at steps", { stop_at_step: 9, resume: true })).toMatchObject({
    result: { ended: "finished", step: 9 },
  });
  expect(resultOf(output)).toEqual(resultOf(join(folder, "never stopped")));
  for (const step of [3, 6, 9])
    expect(checkpointHashes(output, step)).toEqual(checkpointHashes(join(folder, "never stopped"), step));
});

/** Returns hashes of a checkpoint's files, and its state without the output folder's name and `resume`. */
function checkpointHashes(output: string, step: number): Record<string, unknown> {
  const checkpoint = join(output, `checkpoint-${step}`);
  const hashes = Object.fromEntries(hashesBelow(checkpoint));
  expect(Object.keys(hashes)).toContain("optimizer.safetensors");
  const { options, ...state } = JSON.parse(readFileSync(join(checkpoint, "trainer_state.json"), "utf8"));
  const { output: _, resume: __, ...kept } = options;
  return { ...hashes, "seal.json": undefined, "trainer_state.json": { ...state, options: kept } };
}

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

const policiesOf = (output: string): ClassPolicy[] =>
  readPolicies(JSON.parse(readFileSync(join(output, POLICY_FILE), "utf8")), (key) => key);

describe("a run that was folded", () => {
  const stopped = async (name: string): Promise<TrainInput & { output: string }> => {
    const options = { ...input, max_steps: 3, output: join(folder, name) };
    await runWith({ ...options, policy: { plora: "folded" } }, { stopAfterMicroBatches: 1 });
    return { ...options, resume: true };
  };
  const ploraOfRun = (output: string): string => policiesOf(output)[0]!.policy.plora;

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

it("a planned run's policies, given to another, give the same bytes by the same policies", async () => {
  const [output, again] = [join(folder, "chosen"), join(folder, "chosen again")];
  const ids = (count: number): number[] => Array.from({ length: count }, (_, at) => 3 + (at % 90));
  const data = join(folder, "long.jsonl");
  const lines = [20, 3000].map((count) => JSON.stringify({ input_ids: ids(count), labels: ids(count) }));
  writeFileSync(data, lines.join("\n"));
  const options = { ...input, data, max_steps: 4 };
  await runWith({ ...options, memory: "5MiB", output });
  const policy = join(output, POLICY_FILE);
  const { events } = await runWith({ ...options, policy, output: again });
  expect(noticesOf(events)).toEqual([]);
  const [short, long] = policiesOf(again);
  expect(short!.policy).not.toEqual(long!.policy);
  expect(policiesOf(again)).toEqual(policiesOf(output));
  expect(resultOf(again)).toEqual(resultOf(output));
});

describe("a single choice on resume", () => {
  const stopped = async (name: string, more: Partial<TrainInput>) => {
    const options = { ...input, max_steps: 3, output: join(folder, name) };
    await runWith({ ...options, ...more } as TrainInput, { stopAfterMicroBatches: 1 });
    return { options: { ...options, resume: true }, before: policiesOf(options.output) };
  };
  /** Returns the policies with another tile size and otherwise unchanged. */
  const tiled = (policies: readonly ClassPolicy[]): ClassPolicy[] =>
    policies.map(({ upToTokens, policy }) => ({ upToTokens, policy: { ...policy, mlpTileTokens: 512 } }));

  it("leaves a run whose policies were planned all others, in every class of lengths", async () => {
    const room = { memory: "100MiB" };
    const { options, before } = await stopped("tiled", room);
    expect(before.length).toBeGreaterThan(1);
    const { events } = await runWith({ ...options, ...room, mlp_tile: 512 }, { stopAfterMicroBatches: 1 });
    expect(policiesOf(options.output)).toEqual(tiled(before));
    expect(noticesOf(events)).toEqual([]);
    expect(await runWith({ ...options, ...room, mlp_tile: 512 })).toMatchObject({
      result: { ended: "finished" },
    });
    expect(policiesOf(options.output)).toEqual(tiled(before));
  });

  it.each([{ memory: "100MiB" }, {}])("leaves a folded run folded, with %o", async (room) => {
    const { options, before } = await stopped(`folded, tiled ${room.memory}`, {
      policy: { plora: "folded" },
    });
    const { events } = await runWith({ ...options, ...room, mlp_tile: 512 });
    for (const { policy } of policiesOf(options.output)) {
      expect(policy.plora).toMatch(/^folded/);
      expect(policy.mlpTileTokens).toBe(512);
    }
    expect(before[0]!.policy.mlpTileTokens).not.toBe(512);
    expect(noticesOf(events)).toEqual([]);
  });

  it("that is given up again is planned anew", async () => {
    const room = { memory: "100MiB" };
    const planned = await stopped("planned", room);
    const { options } = await stopped("given up", { ...room, mlp_tile: 512 });
    await runWith({ ...options, ...room });
    expect(policiesOf(options.output)).toEqual(planned.before);
  });
});

describe("a run over a vision tower in fewer bits", () => {
  it("goes on with it to the same bytes, and refuses another precision by name", async () => {
    const options = { ...input, max_steps: 6, vision_base: "int8" as const };
    const output = join(folder, "vision");
    await runWith({ ...options, output: join(folder, "vision whole") });
    await runWith({ ...options, output }, { stopAfterMicroBatches: 2 });
    expect(readFileSync(join(output, OPTIONS_FILE), "utf8")).toContain("vision_base: int8");
    for (const [vision_base, is] of [
      ["nf4", '"nf4"'],
      [undefined, "not given"],
    ] as const)
      expect(await runWith({ ...options, output, vision_base, resume: true })).toMatchObject({
        error: { message: expect.stringContaining(`vision_base was "int8", is ${is}`) },
      });
    expect(await runWith({ ...options, output, resume: true })).toMatchObject({
      result: { ended: "finished" },
    });
    expect(resultOf(output)).toEqual(resultOf(join(folder, "vision whole")));
    await runWith({ ...options, vision_base: undefined, output: join(folder, "vision full") });
    expect(resultOf(output)).not.toEqual(resultOf(join(folder, "vision full")));
  });
});

it("saves a checkpoint after the step that --save-every's time has passed in, and at the end", async () => {
  const output = join(folder, "by time");
  let minutes = 0; // each step takes four
  const events = (more: Partial<TrainInput>, stopAfterMicroBatches?: number) =>
    runWith({ ...input, max_steps: 9, save_every: "10min", output, ...more } as TrainInput, {
      nowMs: () => minutes * 60_000,
      ...(stopAfterMicroBatches && { stopAfterMicroBatches }),
      onFact: ({ fact }) => {
        if (fact === "microBatch") minutes += 4;
      },
    });
  const saved = ({ events }: Awaited<ReturnType<typeof runWith>>): number[] =>
    events.flatMap((event) => (event.fact === "checkpoint" ? [event.step] : []));
  expect(saved(await events({}, 7))).toEqual([3, 6, 7]);
  minutes += 1000; // time between two parts of a run does not count
  expect(saved(await events({ resume: true }))).toEqual([9]);
  expect(readFileSync(join(output, OPTIONS_FILE), "utf8")).toContain("save_every: 10min\n");
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
  expect(outcome.events.filter(({ fact }) => fact !== "check" && fact !== "end")).toEqual([]); // refused before anything is planned or loaded
  expect(await runWith({ ...input, max_steps: 4, output })).toMatchObject({
    error: { message: expect.stringMatching(/holds a run that stopped at step 2 of 4/) },
  });
});
