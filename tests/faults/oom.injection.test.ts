/**
 * Memory runs out at any allocation of a micro-batch. Nothing is lost, nothing leaks, and the gradients are
 * those of an undisturbed run.
 */
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { createBatches, type MicroBatch } from "../../src/data/stream/batches.ts";
import { zeroGradients } from "../../src/models/lora.ts";
import { Policy } from "../../src/step/policy.ts";
import { pendingCopies } from "../../src/torch/copies.ts";
import { failAtAllocation, liveTensors, memoryStats } from "../../src/torch/device.ts";
import { ALONE } from "../../src/torch/peers/peers.ts";
import { type Closers, openRun } from "../../src/train/loop/openRun.ts";
import { runMicroBatch } from "../../src/train/loop/retry.ts";
import type { Run } from "../../src/train/loop/run.ts";
import { trainOptions } from "../../src/train/options/options.ts";
import { ofAllLengths } from "../../src/train/options/policyFiles.ts";
import { RunPlan } from "../../src/train/planning/policyByLength.ts";
import { factsInto, makeWorkplace } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const closers: Closers = [];
afterAll(async () => {
  for (const close of closers.reverse()) await close();
});

// biome-ignore format: an option a word
const STREAMED = {
  headGroups: 2, mlpTileTokens: 1024, attentionInput: "recomputed", visionBatchTiles: 2,
  layers: [{ count: 1, boundary: "host" }, { count: 1, boundary: "none" }],
  weights: { source: "streamed" }, embeddings: "host", head: "host", vision: "host",
};

/**
 * `second`: place in the data of the disturbed micro-batch. Place 2 has a picture, which takes long. `every`:
 * only each n-th allocation is tried.
 */
const CASES = {
  "all kept on the device": { policy: { layers: [{ count: 2, keep: "all" }] }, second: 1, every: 1 },
  "weights streamed, boundaries on the host": { policy: STREAMED, second: 1, every: 1 },
  "a picture, the tower on the host": { policy: STREAMED, second: 2, every: 7 },
} as const;

it.each(Object.keys(CASES) as (keyof typeof CASES)[])(
  "memory that runs out at each allocation in turn costs no gradient and no byte: %s",
  async (name) => {
    const { second, every, ...given } = CASES[name];
    const policy = Policy.parse(given.policy);
    const notices: string[] = [];
    const run = await openRunWith(policy, join(folder, `${second}-${every}`), notices);
    const batches = await microBatchesOf(run);
    const two = [batches[0]!, batches[second]!];
    const peaceful = await gradientsOf(run, policy, two);
    const before = live();
    let failures = 0;
    for (let at = 1; notices.length === failures; at += every) {
      const disturbed = await gradientsOf(run, policy, two, at);
      expect(live(), `after a failure at allocation ${at}`).toEqual(before);
      expect(distance(disturbed, peaceful), `a failure at allocation ${at}`).toBeLessThan(1e-5);
      failures++; // the loop ends when there is no such allocation
    }
    expect(notices.length).toBeGreaterThan(100 / every);
    for (const notice of notices)
      expect(notice).toMatch(
        /^Step 1: .*out of memory.*Repeating this one; the result is the same except for rounding\.$/,
      );
  },
);

async function openRunWith(policy: Policy, output: string, notices: string[]): Promise<Run> {
  const given = { ...input, output, policy, lora_dropout: 0.1, gradient_accumulation: 2, max_steps: 1 };
  return await openRun(trainOptions(given), { facts: factsInto(notices), closers, peers: ALONE });
}

function live(): number[] {
  const [device, host] = [memoryStats("cpu"), memoryStats("cpu", "host")];
  return [device.liveBytes, host.liveBytes, liveTensors(), pendingCopies()];
}

/** Computes the gradients of two micro-batches; the allocation `failAt` of the second one fails. */
async function gradientsOf(
  run: Run,
  policy: Policy,
  batches: MicroBatch[],
  failAt = 0,
): Promise<Float32Array> {
  const { planner, demand } = run.inputs;
  const { workload } = run.planned;
  const plan = new RunPlan({
    planner,
    workload,
    demand,
    stepsDown: [],
    choice: { by: "user", policies: [ofAllLengths(policy)] },
  });
  const watching = { onPhase: () => {}, onRanOut: async () => false };
  zeroGradients(run.loaded.lora);
  const done = async (batch: MicroBatch): Promise<void> => {
    using queued = await runMicroBatch({ ...run, planned: { ...run.planned, plan } }, batch, 1, watching);
    queued.norm?.dispose();
  };
  await done(batches[0]!);
  failAtAllocation("cpu", failAt);
  await done(batches[1]!);
  failAtAllocation("cpu", 0);
  const all = run.loaded.optimizer.parameters.map(({ gradient }) => gradient.toFloat32Array());
  return Float32Array.from(all.flatMap((values) => [...values]));
}

/** Returns the distance between two vectors, relative to the length of the second. */
function distance(one: Float32Array, other: Float32Array): number {
  const length = (of: (at: number) => number): number =>
    Math.sqrt(one.reduce((sum, _, at) => sum + of(at) ** 2, 0));
  return length((at) => one[at]! - other[at]!) / length((at) => other[at]!);
}

async function microBatchesOf({ inputs: { data } }: Run): Promise<MicroBatch[]> {
  const batches: MicroBatch[] = [];
  for await (const batch of createBatches({ ...data, draws: 7 })) batches.push(batch);
  return batches;
}
