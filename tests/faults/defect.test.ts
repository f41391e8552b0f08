/** A plan that a step does not keep: told, written down, and traced in the next step like it. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { defectLine } from "../../src/cli/runPlanLines.ts";
import { zeros } from "../../src/torch/create.ts";
import { category } from "../../src/torch/device.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import type { TrainEvent } from "../../src/train/trainer.ts";
import { makeWorkplace, noticesOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const lines = readFileSync(input.data, "utf8").split("\n");
const texts = join(folder, "texts.jsonl");
writeFileSync(texts, `${lines[1]}\n`);
const picture = join(folder, "picture.jsonl");
writeFileSync(picture, `${lines[2]}\n`);
const options = { ...input, data: texts, max_steps: 4, memory: 8_000_000, planned_step: true };
const EXTRA_BYTES = 400_000;

/** Takes memory that no plan knows of in the backward of the steps, until their end. */
function tooMuchIn(steps: readonly number[]): { onEvent: (event: TrainEvent) => void } {
  let extra: Tensor | undefined;
  const onEvent = (event: TrainEvent): void => {
    if (event.event === "step") extra = void extra?.dispose();
    if (event.event !== "phase" || event.phase.phase !== "loss" || !steps.includes(event.step)) return;
    extra ??= category("loss", () => zeros([EXTRA_BYTES / 4]));
  };
  return { onEvent };
}

interface Trace {
  step: number;
  recordedStep: number;
  parting: { at: string; index: number; planned: Event_; measured: Event_ } | null;
  planned: [phase: string, pool: string, category: string, bytes: number][];
  measured: Trace["planned"];
}
interface Event_ {
  phase: string;
  category: string;
  bytes: number;
}

const traceOf = (output: string, step: number): Trace =>
  JSON.parse(readFileSync(join(output, `defect-${step}.json`), "utf8"));

it("is told with its phase and its categories, and written to defects.jsonl", async () => {
  const output = join(folder, "told");
  const { events, ...end } = await runWith({ ...options, output }, tooMuchIn([2]));
  expect(end).toMatchObject({ result: { ended: "finished" } });
  const told = events.flatMap((event) => (event.event === "defect" ? [event] : []));
  expect(told.map(({ step }) => step)).toEqual([2]);
  const { defect } = told[0]!;
  expect(defect).toMatchObject({ pool: "device", phase: "backward" });
  expect(defect.measuredBytes - defect.plannedBytes).toBe(EXTRA_BYTES);
  const [worst] = defect.categories;
  expect(worst!.category).toBe("loss");
  expect(worst!.measuredBytes - worst!.plannedBytes).toBe(EXTRA_BYTES);
  expect(defectLine(2, defect)).toMatch(
    /^step 2 took .* of the device in its backward, [\d.]+% above its plan of /,
  );
  const written = readFileSync(join(output, "defects.jsonl"), "utf8").split("\n")[0]!;
  expect(JSON.parse(written)).toEqual({ step: 2, ...defect });
});

it("is traced in the next step like it, to the allocation that the plan does not know", async () => {
  const output = join(folder, "traced");
  const { events } = await runWith({ ...options, output }, tooMuchIn([2, 3, 4]));
  const trace = traceOf(output, 2);
  expect(trace).toMatchObject({ step: 2, recordedStep: 3, parting: { at: "event" } });
  const { index, measured, planned } = trace.parting!;
  expect(measured).toMatchObject({ phase: "backward", category: "loss", bytes: EXTRA_BYTES });
  expect(trace.measured[index]).toEqual(["backward", "device", "loss", EXTRA_BYTES]);
  expect(planned.bytes).not.toBe(EXTRA_BYTES);
  expect(trace.measured.slice(0, index)).toEqual(trace.planned.slice(0, index));
  expect(noticesOf(events)).toEqual([
    expect.stringMatching(
      /^the defect of step 2, recorded again in step 3: it parts from its plan at event \d+, an allocation of 390\.6 KiB of loss in backward, where the plan has /,
    ),
  ]);
  expect(existsSync(join(output, "defect-3.json"))).toBe(false); // one of a kind is enough
});

it.each([
  ["a text", texts, {}],
  ["a picture, with accumulation", picture, { gradient_accumulation: 2, lora_dropout: 0.1 }],
  [
    "streamed weights",
    texts,
    {
      policy: JSON.stringify({
        weights: { source: "streamed" },
        vision: "host",
        layers: [{ count: 2, boundary: "host" }],
      }),
    },
  ],
  [
    "bf16 and 8 bits",
    texts,
    { dtype: "bf16" as const, policy: JSON.stringify({ optimizer: { precision: "8bit", place: "host" } }) },
  ],
])("a step that keeps its plan again allocates what was planned: %s", async (name, data, more) => {
  const output = join(folder, name.replaceAll(" ", "-"));
  const { events } = await runWith({ ...options, ...more, data, output }, tooMuchIn([2]));
  expect(events.filter(({ event }) => event === "defect")).toHaveLength(1);
  const { parting, planned, measured } = traceOf(output, 2);
  expect(parting).toBeNull();
  expect(Math.abs(measured.length - planned.length)).toBeLessThan(planned.length / 50);
  expect(measured.length).toBeGreaterThan(100);
  expect(noticesOf(events)).toEqual([expect.stringContaining("this time it allocated what was planned")]);
});
