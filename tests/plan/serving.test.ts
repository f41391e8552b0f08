import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { PlanOptions } from "../../src/answer/options.ts";
import { type ServingAnswer, servingAnswerOf } from "../../src/answer/serving.ts";
import { servingText } from "../../src/cli/plan/servingText.ts";
import { GIB, UsageError } from "../../src/errors.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { openEngine } from "../../src/serving/openEngine.ts";
import { liftCaps } from "../../src/train/machine/compute.ts";

const root = mkdtempSync(join(tmpdir(), "plan-serve-"));
afterAll(() => rmSync(root, { recursive: true }));

const answerTo = (options: object): ServingAnswer =>
  servingAnswerOf(PlanOptions.parse({ serve: true, ...options }));
const at = ({ lengths }: ServingAnswer, tokens: number): number =>
  lengths.find((length) => length.tokens === tokens)?.sequences ?? 0;

test("a plan to serve stays within the memory, and more memory or fewer bits serve more", () => {
  const sizes = [{ memory: "6GiB" }, { gpu: "rtx-4090" }, { gpu: "rtx-4090", base: "nf4" }].map(answerTo);
  for (const answer of sizes) {
    expect(answer.fits).toBe(true);
    expect(answer.peakBytes).toBeLessThanOrEqual(answer.limitBytes!);
    const { weights, adapters, keysAndValues, features, workingSet } = answer.parts;
    expect(weights + adapters + keysAndValues + features + workingSet).toBe(answer.peakBytes);
    expect(workingSet).toBeGreaterThan(0);
    for (const { tokens, sequences } of answer.lengths)
      expect(sequences * tokens).toBeLessThanOrEqual(answer.kvTokens);
  }
  expect(sizes.map(({ weights }) => weights)).toEqual(["streamed", "resident", "resident"]);
  expect(at(sizes[2]!, 8192)).toBeGreaterThan(at(sizes[1]!, 8192));
  expect(sizes[1]!.parts.weights).toBeGreaterThan(15 * GIB);
});

test("what does not fit says how much would", () => {
  const small = answerTo({ memory: "1GiB" });
  expect([small.fits, small.lengths]).toEqual([false, []]);
  expect(servingText(small)).toContain("it needs at least");
  const enough = answerTo({ memory: `${Math.ceil(small.peakBytes / 2 ** 20)}MiB` });
  expect(enough.fits).toBe(true);
});

test("options of a training plan are refused, and so is a plan without a memory", () => {
  for (const options of [{}, { memory: "8GiB", solve: "memory" }, { memory: "8GiB", html: "plan.html" }])
    expect(() => answerTo(options)).toThrow(UsageError);
});

test("the engine that opens has the room that was planned", async () => {
  const folder = join(root, "model");
  writeTinyCheckpoint(folder, { ...TINY, vocab: 256 });
  const planned = answerTo({ model: folder, device: "cpu", memory: "40MiB", adapters: 0, max_sequences: 5 });
  const options = {
    model: folder,
    device: "cpu",
    memory: 40 * 2 ** 20,
    maxAdapters: 0,
    maxSequences: 5,
  } as const;
  const engine = await openEngine(options);
  const { kvTokens, maxTokens, weights, plannedPeakBytes } = engine.room();
  await engine.close();
  liftCaps("cpu");
  expect({ kvTokens, maxTokens, weights, peakBytes: plannedPeakBytes }).toEqual({
    kvTokens: planned.kvTokens,
    maxTokens: planned.maxTokens,
    weights: planned.weights,
    peakBytes: planned.peakBytes,
  });
});

test("the text names the lengths and where the memory goes", () => {
  const text = servingText(answerTo({ gpu: "rtx-4090", base: "nf4" }));
  expect(text).toMatch(/Serves up to 32 answers at a time on GeForce RTX 4090 in 22\.7 GiB/);
  expect(text).toMatch(/8,192 +\d+\n/);
  expect(text).toMatch(/keys and values +\d+\.\d+ GiB/);
});
