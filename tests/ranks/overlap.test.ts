/** Gradients are added up beside the last backward pass: the result is that of adding them up after it. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, makeWorkplace, SIZES } from "../faults/trainRun.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import type { OverlapArgs, OverlapRun } from "./overlap.rank.ts";

const { folder, input } = await makeWorkplace();
const body = new URL("./overlap.rank.ts", import.meta.url);
const LAYERS = 4;
const STEPS = 3;
const model = join(folder, "four layers");
writeTinyCheckpoint(model, { ...TINY, ...SIZES, layers: LAYERS });

/** The gradients of each layer fill a bucket. */
const usual = {
  ...input,
  ...{ model, lora_r: 700, lora_alpha: 64, lora_dropout: 0.2, learning_rate: 1e-3 },
  ...{ max_steps: STEPS, gradient_accumulation: 5, shuffle: true, max_grad_norm: 0.5 },
};

let runs = 0;
async function trained(
  count: number,
  options: Partial<TrainInput> = {},
  args: Omit<OverlapArgs, "options"> = {},
): Promise<{ output: string; ranks: OverlapRun[] }> {
  const output = join(folder, `run ${runs++}`);
  const ranks = await runRanks<OverlapRun>(count, body, {
    args: { options: { ...usual, ...options, output }, ...args },
  });
  return { output, ranks };
}

function policyFile(policy: object): string {
  const path = join(folder, `policy ${runs++}.json`);
  writeFileSync(path, JSON.stringify({ ...policy, plora: "apart" }));
  return path;
}

const adapterOf = (output: string): unknown => hashesBelow(join(output, "adapter"));

it("each step starts to add up before its last backward pass has ended, with the bytes of adding up after it", async () => {
  const policy = policyFile({});
  const shared = policyFile({ embeddings: "shared" }); // a base that is shared out has the links for itself
  const after = await trained(2, { policy: shared });
  for (const { kinds, early } of after.ranks) {
    expect(early.every((count) => count === 0)).toBe(true);
    expect(kinds.filter((kind) => kind === "exchange")).toHaveLength(LAYERS * STEPS);
  }
  const beside = await trained(2, { policy });
  expect(adapterOf(beside.output)).toEqual(adapterOf(after.output));
  const three = await trained(3, { policy });
  for (const { ranks } of [beside, three])
    for (const { kinds, early, norms } of ranks) {
      const inOrder = Array.from({ length: LAYERS * STEPS }, () => ["exchange", "gather"]).flat();
      expect(kinds).toEqual(inOrder);
      expect(early).toHaveLength(STEPS);
      for (const count of early) expect(count).toBeGreaterThanOrEqual(1);
      expect(norms).toEqual(ranks[0]!.norms);
    }
});

it("a rank that runs out of memory with a sum under way repeats its micro-batch, and no gradient counts twice", async () => {
  const whole = await trained(2);
  const disturbed = await trained(2, {}, { runsOut: { rank: 1, step: 2 } });
  const [first, second] = disturbed.ranks;
  expect(second!.leaner).toHaveLength(1);
  expect(second!.leaner[0]).toMatch(/^Step 2: .*out of memory.*Repeating this one/);
  expect(first!.kinds).toEqual(second!.kinds);
  expect(first!.norms).toEqual(second!.norms);
  for (const [step, norm] of first!.norms.entries())
    expect(norm / whole.ranks[0]!.norms[step]!).toBeCloseTo(1, 5);
});
