/** The memory over a step, as a run measures it: memory.json, and every allocation for PyTorch's viewer. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { unpickle } from "../../src/checkpoint/files/pickle.ts";
import { torchHost } from "../../src/checkpoint/files/torchPickle.ts";
import { peakOf, totalsOf } from "../../src/plan/memory/stepProfile.ts";
import { failAtAllocation } from "../../src/torch/device.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { readStepMemory } from "../../src/train/folder/stepMemory.ts";
import { makeWorkplace, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const options = { ...input, memory: 9_000_000 };

type Event = Record<string, unknown> & { action: string; category?: string; size: number; frames: unknown[] };

/** Events of the device's pool. */
function eventsIn(file: string): Event[] {
  const { value } = unpickle(readFileSync(file), file, torchHost(file, new Map()));
  const plain = (item: unknown): unknown => {
    if (item instanceof Map) return Object.fromEntries([...item].map(([key, one]) => [key, plain(one)]));
    return Array.isArray(item) ? item.map(plain) : item;
  };
  return (plain(value) as { device_traces: Event[][] }).device_traces[0]!;
}

function peakBytes(events: readonly Event[]): number {
  let [live, peak] = [0, 0];
  for (const { action, size } of events) {
    if (action === "alloc") live += size;
    if (action === "free_completed") live -= size;
    peak = Math.max(peak, live);
  }
  return peak;
}

const memoriesOf = (facts: readonly RunFact[]) =>
  facts.flatMap((fact) => (fact.fact === "memory" ? [fact.memory] : []));

it("memory.json has the measured step beside its plan, to the byte, and follows the largest micro-batch", async () => {
  const output = join(folder, "profile");
  const { events } = await runWith({ ...options, output, max_steps: 5 });
  const memories = memoriesOf(events);
  expect(memories.map(({ step }) => step)).toEqual([1, 2, 3]); // 10 tokens, 31, then a picture's 328
  for (const { step, measured, planned, samples } of memories) {
    const { record } = events.find((fact) => fact.fact === "step" && fact.record.step === step) as Extract<
      RunFact,
      { fact: "step" }
    >;
    expect(samples[0]!.index).toBe(step - 1);
    expect(peakOf(measured, "device")).toBe(record.peakBytes);
    expect(totalsOf(planned, "device")).toEqual(totalsOf(measured, "device"));
  }
  const last = memories.at(-1)!;
  expect(last.measured.phases.map(({ name }) => name)).toEqual([
    "vision",
    "forward",
    "loss",
    "backward",
    "update",
  ]);
  expect(last).toMatchObject({ limits: { deviceBytes: 9_000_000 }, besideBytes: 0, device: "cpu" });
  expect(await readStepMemory(output)).toEqual(last);
});

it("memory_snapshot has every allocation of the step, with the lines of source that asked for it", async () => {
  const output = join(folder, "snapshot");
  const file = join(folder, "step.pickle");
  const { events: facts } = await runWith({ ...options, output, memory_snapshot: file, max_steps: 3 });
  const events = eventsIn(file);
  const [memory] = memoriesOf(facts).slice(-1);
  expect(peakBytes(events)).toBe(peakOf(memory!.measured, "device"));
  const frames = events
    .filter(({ category }) => category === "workingSet")
    .map((event) => JSON.stringify(event.frames));
  expect(
    frames.some(
      (text) => text.includes("attentionBackward_") && text.includes("backward, layer 1, attention"),
    ),
  ).toBe(true);
  expect(frames.some((text) => /"filename":"src\/nn\/[^"]*","line":[1-9]/.test(text))).toBe(true);
});

it("memory_snapshot keeps the micro-batch that ran out of memory, up to the allocation that failed", async () => {
  const output = join(folder, "oom");
  const file = join(folder, "oom.pickle");
  let armed = true;
  const onFact = (fact: RunFact): void => {
    const fails = fact.fact === "phase" && fact.step === 2 && fact.phase.phase === "backward";
    if (!fails || !armed) return;
    armed = false;
    failAtAllocation("cpu", 3);
  };
  const end = await runWith({ ...options, output, memory_snapshot: file, max_steps: 4 }, { onFact });
  expect(end).toMatchObject({ result: { ended: "finished" } });
  const [failed, last] = eventsIn(file).slice(-2);
  expect(failed).toMatchObject({ action: "oom" });
  expect(last).toMatchObject({ category: "unknown" });
});
