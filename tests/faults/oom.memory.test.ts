/**
 * The promise of --memory: from the least possible limit upwards, a run stays within it, matches its plan to
 * the byte, and learns the same.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { leastMemory } from "../../src/plan/search.ts";
import { readySamples } from "../../src/train/data/dataset.ts";
import { demandOf } from "../../src/train/data/memoryDemand.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { readRecords, type StepRecord } from "../../src/train/folder/runLog.ts";
import { plannerOf } from "../../src/train/machine/modelPlanner.ts";
import { withOpened } from "../../src/train/machine/openedModel.ts";
import { trainOptions } from "../../src/train/options/options.ts";
import { workloadOf } from "../../src/train/planning/policyByLength.ts";
import { lcg } from "../helpers/randomModel.ts";
import { makeWorkplace, noticesOf, resultOf, runWith } from "./trainRun.ts";

const UNLIMITED = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };

const { folder, input } = await makeWorkplace();
const data = join(folder, "lengths.jsonl");
const random = lcg(11);
writeFileSync(
  data,
  [70, 1300, 500, 200, 800]
    .map((tokens) => {
      const input_ids = Array.from({ length: tokens }, () => 3 + Math.floor(random() * 90));
      return `${JSON.stringify({ input_ids, labels: input_ids.map((id, at) => (at < 40 ? -100 : id)) })}\n`;
    })
    .join("") + readFileSync(input.data, "utf8").split("\n")[2],
);
const options = { ...input, data, max_steps: 3, gradient_accumulation: 2, planned_step: true };

/** Returns the bytes of the leanest policy for the longest sample. */
async function leastBytes(): Promise<number> {
  const planner = withOpened(input.model, (opened) => plannerOf(opened, { dtype: "float32", device: "cpu" }));
  const reader = { tokenizer: undefined, config: planner.config };
  const { samples } = await readySamples([data], reader, trainOptions(options), { notice: () => {} });
  const demand = demandOf(samples, { by: "samples", samples: 1 });
  const asked = workloadOf(
    { rank: 2, dropout: 0, targets: OFFICIAL_TARGETS },
    demand.shapeOf(demand.mostTokens),
  );
  return leastMemory(planner, asked, UNLIMITED).run.budgetedBytes;
}

function plansOf(events: readonly RunFact[]) {
  return events.flatMap((event) => (event.fact === "plan" ? [event] : []));
}

it("holds from the least budget up, with the same losses, and planned is measured", async () => {
  const least = await leastBytes();
  const policies = new Set<string>();
  const free = join(folder, "free");
  expect(await runWith({ ...options, output: free })).toMatchObject({ result: { ended: "finished" } });
  const expected = await readRecords<StepRecord>(join(free, "steps.jsonl"));
  for (const ratio of [1, 1.02, 1.05, 4]) {
    const output = join(folder, `times-${ratio}`);
    const memory = Math.ceil(ratio * least);
    const { events, ...end } = await runWith({ ...options, output, memory });
    expect(end, `${ratio} times the least`).toMatchObject({ result: { ended: "finished" } });
    policies.add(JSON.stringify(plansOf(events)[0]!.policies.at(-1)));
    const steps = await readRecords<StepRecord>(join(output, "steps.jsonl"));
    for (const [index, step] of steps.entries()) {
      expect(step.peakBytes).toBeLessThanOrEqual(memory);
      expect(step.peakBytes).toBe(step.plannedPeakBytes);
      expect(step.loss).toBeCloseTo(expected[index]!.loss, 4);
    }
    expect(events.filter(({ fact }) => fact === "defect")).toEqual([]);
    expect(noticesOf(events)).toEqual([]);
  }
  expect(policies.size).toBeGreaterThan(1);
});

it("a run with the least budget that is stopped within a step goes on within it, to the same bytes", async () => {
  const least = { ...options, memory: await leastBytes() };
  const [whole, parts] = ["least-whole", "least-parts"].map((name) => join(folder, name));
  await runWith({ ...least, output: whole });
  await runWith({ ...least, output: parts }, { stopAfterMicroBatches: 3 });
  const { events, ...end } = await runWith({ ...least, output: parts, resume: true });
  expect(end).toMatchObject({ result: { ended: "finished", step: 3 } });
  expect(noticesOf(events)).toEqual([]);
  expect(resultOf(parts!).adapters).toEqual(resultOf(whole!).adapters);
});

it.each([
  ["bf16", { dtype: "bf16" }],
  ["packs", { pack: true, max_length: 1500 }],
  ["pairs", { batch_size: 2, lora_dropout: 0.1 }],
  ["int8", { base: "int8" }],
] as const)("keeps its plan of either pool with %s", async (name, more) => {
  const output = join(folder, `with-${name}`);
  const { events, ...end } = await runWith({ ...options, ...more, output, memory: 7_000_000 });
  expect(end).toMatchObject({ result: { ended: "finished" } });
  for (const event of events) {
    if (event.fact !== "step") continue;
    const { measured, planned } = event.peaks;
    expect({ device: measured.device.bytes, host: measured.host.bytes }).toEqual({
      device: planned!.device.peakBytes,
      host: planned!.host.peakBytes,
    });
  }
});
