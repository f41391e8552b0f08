/**
 * A step that takes more memory than its plan: the run reports the defect, writes it down, and traces it by
 * running the micro-batch once more.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { defectLine } from "../../src/cli/run/planLines.ts";
import { zeros } from "../../src/torch/create.ts";
import { category, memoryStats } from "../../src/torch/device.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { hashesBelow, makeWorkplace, noticesOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const lines = readFileSync(input.data, "utf8").split("\n");
const texts = join(folder, "texts.jsonl");
writeFileSync(texts, `${lines[1]}\n`);
const picture = join(folder, "picture.jsonl");
writeFileSync(picture, `${lines[2]}\n`);
const options = { ...input, data: texts, max_steps: 4, memory: 9_000_000, planned_step: true };
const EXTRA_BYTES = 400_000;
/** Bytes. Encoding a picture takes more memory than everything after it, so the extra must be large. */
const PICTURE_EXTRA_BYTES = 5_000_000;

/**
 * Allocates memory outside the plan in the backward of the given steps: the first time that they run, or with
 * `again` every time.
 */
function tooMuchIn(
  steps: readonly number[],
  { again = false, extraBytes = EXTRA_BYTES } = {},
): { onFact: (event: RunFact) => void; doneTwice: Set<string> } {
  let extra: Tensor | undefined;
  const [done, doneTwice] = [new Set<string>(), new Set<string>()];
  const onFact = (event: RunFact): void => {
    if (event.fact !== "phase") return;
    const { step, phase } = event;
    if (phase.phase === "loss" && steps.includes(step)) {
      const which = `step ${step}, micro-batch ${event.microBatch}`;
      if (done.has(which)) doneTwice.add(which);
      if (!done.has(which) || again) extra ??= category("loss", () => zeros([extraBytes / 4]));
      done.add(which);
    }
    if (phase.phase === "backward" && phase.done === phase.total) extra = void extra?.dispose();
  };
  return { onFact, doneTwice };
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
  const { events, ...end } = await runWith({ ...options, output }, tooMuchIn([2], { again: true }));
  expect(end).toMatchObject({ result: { ended: "finished" } });
  const told = events.flatMap((event) => (event.fact === "defect" ? [event] : []));
  expect(told.map(({ step }) => step)).toEqual([2]);
  const { defect, trace } = told[0]!;
  expect(trace).toEqual({ file: "defect-2.json", of: "the same step" });
  expect(defect).toMatchObject({ pool: "device", phase: "backward" });
  expect(defect.measuredBytes - defect.plannedBytes).toBe(EXTRA_BYTES);
  const [worst] = defect.categories;
  expect(worst!.category).toBe("loss");
  expect(worst!.measuredBytes - worst!.plannedBytes).toBe(EXTRA_BYTES);
  expect(defectLine(told[0]!)).toMatch(
    /^step 2 took .* of the device in its backward, [\d.]+% above its plan of .* with defects\.jsonl, and with defect-2\.json, which has each allocation as the step was done once more\.$/,
  );
  const written = readFileSync(join(output, "defects.jsonl"), "utf8").split("\n")[0]!;
  expect(JSON.parse(written)).toEqual({ step: 2, ...defect });
});

it("has its micro-batch done once more, and is traced in it to the allocation that the plan does not know", async () => {
  const output = join(folder, "traced");
  const { events } = await runWith({ ...options, output }, tooMuchIn([2, 3, 4], { again: true }));
  const trace = traceOf(output, 2);
  expect(trace).toMatchObject({ step: 2, recordedStep: 2, parting: { at: "event" } });
  const { index, measured, planned } = trace.parting!;
  expect(measured).toMatchObject({ phase: "backward", category: "loss", bytes: EXTRA_BYTES });
  expect(trace.measured[index]).toEqual(["backward", "device", "loss", EXTRA_BYTES]);
  expect(planned.bytes).not.toBe(EXTRA_BYTES);
  expect(trace.measured.slice(0, index)).toEqual(trace.planned.slice(0, index));
  expect(noticesOf(events)).toEqual([
    expect.stringMatching(
      /^the defect of step 2, done once more: it parts from its plan at event \d+, an allocation of 390\.6 KiB of loss in backward, where the plan has /,
    ),
  ]);
  expect(existsSync(join(output, "defect-3.json"))).toBe(false); // one trace for each kind of defect is enough
  const traces = events.flatMap((event) => (event.fact === "defect" ? [event.trace] : []));
  expect(traces.map((found) => found?.of)).toEqual(["the same step", "one like it", "one like it"]);
});

it("changes no byte of a run, whichever micro-batch of a step is done twice", async () => {
  const run = { ...options, data: picture, gradient_accumulation: 2, lora_dropout: 0.1, max_steps: 3 };
  const [output, undisturbed] = [join(folder, "twice"), join(folder, "once")];
  const watched = tooMuchIn([1, 2], { extraBytes: PICTURE_EXTRA_BYTES });
  await runWith({ ...run, output }, watched);
  expect(watched.doneTwice.size).toBeGreaterThan(0);
  await runWith({ ...run, output: undisturbed });
  expect(hashesBelow(join(output, "adapter"))).toEqual(hashesBelow(join(undisturbed, "adapter")));
});

it("is also memory that ran out after a plan that fits: traced to the failed allocation, before a leaner policy is taken", async () => {
  const output = join(folder, "ran-out");
  const { memory } = options;
  let extra: Tensor | undefined;
  let leaner = 0;
  const onFact = (event: RunFact): void => {
    if (event.fact === "leaner") leaner++;
    if (event.fact === "defect" || event.fact === "leaner") extra = void extra?.dispose();
    if (event.fact !== "phase" || event.step !== 2 || event.phase.phase !== "loss" || leaner > 0) return;
    const freeBytes = memory - memoryStats("cpu").liveBytes - 512;
    extra ??= category("loss", () => zeros([Math.floor(freeBytes / 4)]));
  };
  const { events, ...end } = await runWith({ ...options, gradient_accumulation: 2, output }, { onFact });
  expect(end).toMatchObject({ result: { ended: "finished" } });
  const told = events.flatMap((event) => (event.fact === "defect" ? [event] : []));
  expect(told).toMatchObject([{ step: 2, defect: { pool: "device" }, trace: { file: "defect-2.json" } }]);
  const { plannedBytes, measuredBytes } = told[0]!.defect;
  expect(plannedBytes).toBeLessThan(memory);
  expect(measuredBytes).toBeGreaterThan(memory);
  const written = readFileSync(join(output, "defects.jsonl"), "utf8").split("\n")[0]!;
  expect(JSON.parse(written)).toEqual({ step: 2, ...told[0]!.defect });
  const { parting, measured } = traceOf(output, 2);
  expect(parting).toMatchObject({ at: "event", measured: { category: "loss" } });
  expect(measured.at(-1)![3]).toBeGreaterThan(0); // the micro-batch that failed
  expect(leaner).toBe(1);
});

it("of an update is traced in the next step like it, as a step's factors are updated once", async () => {
  const output = join(folder, "update");
  let extra: Tensor | undefined;
  const onFact = (event: RunFact): void => {
    if (event.fact === "microBatch") extra = category("loss", () => zeros([EXTRA_BYTES]));
    if (event.fact === "step") extra = void extra?.dispose();
  };
  const { events } = await runWith({ ...options, output, memory: 12_000_000 }, { onFact });
  const told = events.find((event) => event.fact === "defect")!;
  expect(told).toMatchObject({ defect: { phase: "update" }, trace: { of: "the next one like it" } });
  expect(defectLine(told)).toContain("each allocation of the next step like it, once that is done");
  expect(traceOf(output, told.step)).toMatchObject({ recordedStep: told.step + 1 });
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
  const extraBytes = data === picture ? PICTURE_EXTRA_BYTES : EXTRA_BYTES;
  const { events } = await runWith({ ...options, ...more, data, output }, tooMuchIn([2], { extraBytes }));
  expect(events.filter(({ fact }) => fact === "defect")).toHaveLength(1);
  const { parting, planned, measured } = traceOf(output, 2);
  expect(parting).toBeNull();
  expect(Math.abs(measured.length - planned.length)).toBeLessThan(planned.length / 50);
  expect(measured.length).toBeGreaterThan(100);
  expect(noticesOf(events)).toEqual([expect.stringContaining("this time it allocated what was planned")]);
});
