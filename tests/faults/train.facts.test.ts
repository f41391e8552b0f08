/** The facts that a run reports are plain data, and its logs are made from them. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { failAtAllocation } from "../../src/torch/device.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { makeWorkplace, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const held = join(folder, "held.jsonl");
const lines = readFileSync(input.data, "utf8").split("\n");
writeFileSync(held, `${lines[0]}\n${lines[2]}\n`); // the second has a picture

const kindsOf = (facts: readonly RunFact[]): string[] => [...new Set(facts.map(({ fact }) => fact))].sort();
const recordsOf = (path: string): unknown[] =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

it("every fact of a run survives JSON, and the logs say what the facts say", async () => {
  const output = join(folder, "run");
  let armed = true;
  const onFact = ({ fact }: RunFact): void => {
    if (fact !== "phase" || !armed) return;
    armed = false;
    failAtAllocation("cpu", 1);
  };
  const options = { ...input, output, eval_data: held, eval_every: 2, max_steps: 4, save_every: 3 };
  const { events: facts, ...end } = await runWith({ ...options, memory: 7_000_000 }, { onFact });
  expect(end).toMatchObject({ result: { ended: "finished" } });
  expect(kindsOf(facts)).toEqual(
    [
      "check",
      "checkpoint",
      "end",
      "eval",
      "leaner",
      "memory",
      "microBatch",
      "phase",
      "plan",
      "start",
      "step",
    ].sort(),
  );
  for (const fact of facts) expect(JSON.parse(JSON.stringify(fact))).toStrictEqual(fact);

  const of = <K extends RunFact["fact"]>(kind: K) =>
    facts.filter((fact): fact is Extract<RunFact, { fact: K }> => fact.fact === kind);
  expect(recordsOf(join(output, "steps.jsonl"))).toEqual(of("step").map(({ record }) => record));
  expect(recordsOf(join(output, "evals.jsonl"))).toEqual(of("eval").map(({ record }) => record));
  expect(recordsOf(join(output, "answers.jsonl"))).toEqual(of("eval").flatMap(({ answers }) => answers));
  const { stepsBefore: _, ...start } = of("start")[0]!;
  const others = new Set(["plan", "notice", "leaner", "defect", "checkpoint", "end"]);
  const logged = facts.flatMap<unknown>((fact) =>
    fact.fact === "start" ? [start] : others.has(fact.fact) ? [fact] : [],
  );
  expect(recordsOf(join(output, "facts.jsonl"))).toEqual(logged);
  expect(JSON.parse(readFileSync(join(output, "memory.json"), "utf8"))).toEqual(of("memory").at(-1)!.memory);
  expect(of("end")).toEqual([
    expect.objectContaining({ ended: "finished", adapter: join(output, "adapter") }),
  ]);
});

it("facts name what a page shows: samples with their times, memory by category, losses and answers with pictures", async () => {
  const output = join(folder, "page");
  const options = { ...input, output, eval_data: held, max_steps: 3, gradient_accumulation: 2 };
  const { events: facts } = await runWith({ ...options, memory: 7_000_000 });
  const of = <K extends RunFact["fact"]>(kind: K) =>
    facts.filter((fact): fact is Extract<RunFact, { fact: K }> => fact.fact === kind);
  const microBatches = of("microBatch");
  expect(microBatches.map(({ samples }) => samples[0]!.index)).toEqual([0, 1, 2, 3, 4, 5]);
  expect(microBatches.map(({ pictures }) => pictures)).toEqual([0, 0, 1, 0, 0, 1]);
  for (const { record, peaks } of of("step")) {
    const ofStep = microBatches.filter(({ step }) => step === record.step);
    const slowest = ofStep.reduce((one, other) => (other.elapsedMs > one.elapsedMs ? other : one));
    expect(record.slowest).toEqual({
      samples: slowest.samples,
      tokens: slowest.tokens,
      elapsedMs: slowest.elapsedMs,
    });
    expect(record.tokens).toBe(ofStep.reduce((sum, { tokens }) => sum + tokens, 0));
    const categories = Object.values(record.peakByCategory!);
    expect(categories.reduce((sum, bytes) => sum + bytes, 0)).toBe(peaks.measured.device.bytes);
  }
  const [plan] = of("plan");
  expect(plan!.limits).toEqual({ deviceBytes: 7_000_000 });
  expect(plan!.step!.limitedBytes).toBeLessThanOrEqual(7_000_000);
  const [evaluation] = of("eval");
  expect(evaluation!.losses.map(({ sample }) => sample.index)).toEqual([0, 1]);
  expect(evaluation!.answers.map(({ pictures }) => pictures)).toEqual([[], [join(folder, "2.png")]]);
});

it("a run that fails ends with a fact that says why and what to do", async () => {
  const { events: facts, ...end } = await runWith({
    ...input,
    output: join(folder, "failed"),
    memory: 10_000,
  });
  const { error } = end as { error: { message: string; fix: string } };
  const { message, fix } = error;
  expect(facts.at(-1)).toMatchObject({ fact: "end", ended: "failed", message, fix });
  expect(existsSync(join(folder, "failed", "facts.jsonl"))).toBe(false); // it never started
});
