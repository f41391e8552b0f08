/** Evaluations during a run: when they happen, what they record, and which adapter is kept. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { planLines } from "../../src/cli/run/planLines.ts";
import type { SampleSource } from "../../src/data/samples/sample.ts";
import { trainTokenizer } from "../../src/data/text/tinyTokenizer.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { METRIC_NAMES, metricsOf, scoresOf } from "../../src/train/evaluate/scores.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { type AnswerRecord, type EvalRecord, readRecords } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, makeWorkplace, noticesOf, resultOf, runWith, SIZES } from "./trainRun.ts";

/** Bytes: the least for all answers except the longest, and enough for all. */
const MEMORIES = [2_100_000, 6_000_000];

const { folder, input } = await makeWorkplace();

it("come every so many steps and at the end; the adapter with the lowest loss is kept beside the last", async () => {
  const output = join(folder, "run");
  const bests: { step: number; hashes: unknown }[] = [];
  const onFact = (event: RunFact): void => {
    if (event.fact === "eval" && event.best)
      bests.push({ step: event.record.step, hashes: hashesBelow(join(output, "best")) });
  };
  const one = join(folder, "one.jsonl"); // learning it by heart makes the other samples worse
  writeFileSync(one, readFileSync(input.data, "utf8").split("\n")[0]!);
  const learning = { data: one, max_steps: 7, learning_rate: 0.1, lr_schedule: "constant" as const };
  const options = { ...input, ...learning, eval_data: input.data, eval_every: 2, output };
  const { events } = await runWith(options, { onFact });

  const records = await readRecords<EvalRecord>(join(output, "evals.jsonl"));
  expect(records.map(({ step }) => step)).toEqual([2, 4, 6, 7]);
  expect(events.flatMap((event) => (event.fact === "eval" ? [event.record] : []))).toEqual(records);
  for (const { samples, labelTokens, exactMatch, anls } of records) {
    expect([samples, labelTokens]).toEqual([7, 75]);
    expect(exactMatch).toBeGreaterThanOrEqual(0);
    expect(exactMatch).toBeLessThanOrEqual(1);
    expect(anls).toBeUndefined(); // samples of ids have no text
  }
  const lowest = records.reduce((best, record) => (record.loss < best.loss ? record : best));
  expect(bests.at(-1)?.step).toBe(lowest.step);
  expect(lowest.step).toBeLessThan(7);
  expect(hashesBelow(join(output, "best"))).toEqual(bests.at(-1)?.hashes);
  expect(hashesBelow(join(output, "best"))).not.toEqual(hashesBelow(join(output, "adapter")));

  // the kept adapter has the loss that was recorded for it
  const again = {
    ...input,
    adapter: join(output, "best"),
    learning_rate: 0,
    max_steps: 1,
    eval_data: input.data,
  };
  await runWith({ ...again, output: join(folder, "again") });
  const [record] = await readRecords<EvalRecord>(join(folder, "again", "evals.jsonl"));
  expect(record).toEqual({ ...lowest, step: 1 });
});

it("keep the adapter that is the best by --metric, which need not be the one with the lowest loss", async () => {
  const output = join(folder, "by metric");
  const options = { ...input, max_steps: 6, eval_data: input.data, eval_every: 1, output };
  const { events } = await runWith({ ...options, metric: "exact_match" });
  const records = await readRecords<EvalRecord>(join(output, "evals.jsonl"));
  const best = (value: (record: EvalRecord) => number): number =>
    records.reduce((found, record) => (value(record) > value(found) ? record : found)).step;
  const bests = events.flatMap((event) => (event.fact === "eval" && event.best ? [event.record.step] : []));
  expect(bests.at(-1)).toBe(best(({ metrics }) => metrics!.exact_match!));
  expect(bests.at(-1)).not.toBe(best(({ loss }) => -loss)); // the loss falls long before an answer is right
  for (const { exactMatch, metrics } of records) expect(metrics).toEqual({ exact_match: exactMatch });
});

it("end a run that no longer improves; stopped, resumed and done again it ends at the same step", async () => {
  const one = join(folder, "by heart.jsonl"); // learning it makes the other samples worse
  writeFileSync(one, readFileSync(input.data, "utf8").split("\n")[0]!);
  const learning = { data: one, max_steps: 40, learning_rate: 0.1, lr_schedule: "constant" as const };
  const options = {
    ...input,
    ...learning,
    eval_data: input.data,
    eval_every: 2,
    early_stop: 3,
    lora_dropout: 0.1,
  };
  const [whole, parts, never] = ["whole", "parts", "never"].map((name) => join(folder, `early ${name}`)) as [
    ...[string, string, string],
  ];
  const { events, ...end } = await runWith({ ...options, output: whole });
  const records = await readRecords<EvalRecord>(join(whole, "evals.jsonl"));
  const best = records.reduce((found, record) => (record.loss < found.loss ? record : found));
  const step = best.step + 2 * 3;
  const message = `the last 3 evaluations did not improve the evaluation loss on ${best.loss.toFixed(4)} at step ${best.step}`;
  const early = { ended: "finished", step, adapter: join(whole, "adapter"), reason: "early_stop", message };
  expect(end).toEqual({ result: early });
  expect(events.at(-1)).toMatchObject({ fact: "end", ...early });
  expect(step).toBeLessThan(options.max_steps);
  expect(records.at(-1)!.step).toBe(step);

  for (;;) {
    const part = await runWith({ ...options, output: parts, resume: true }, { stopAfterMicroBatches: 3 });
    if (!("result" in part)) throw part.error;
    if (part.result.ended === "interrupted") continue;
    expect(part.result).toEqual({ ...early, adapter: join(parts, "adapter") });
    break;
  }
  expect(resultOf(parts)).toEqual(resultOf(whole));
  const again = await runWith({ ...options, output: parts, resume: true }); // has nothing left to do
  expect(again).toMatchObject({ result: { reason: "early_stop", step } });

  expect(await runWith({ ...options, output: parts, early_stop: 0, resume: true })).toMatchObject({
    result: { ended: "finished", step: 40, adapter: join(parts, "adapter") },
  });
  await runWith({ ...options, output: never, early_stop: 0 });
  expect(resultOf(parts)).toEqual(resultOf(never));
  const anew = await runWith({ ...options, output: whole, max_steps: 1 });
  expect(noticesOf(anew.events)).toContainEqual(expect.stringContaining("earlier-1")); // it was over, not unfinished
});

describe("metrics of texts", async () => {
  const texts = ["What is the total?", '{"total": "12.50", "shop": "Cafe"}', '{"total": "7.00"}', "12.50"];
  const model = join(folder, "with tokenizer");
  writeTinyCheckpoint(model, { ...TINY, ...SIZES, vocab: 400 });
  writeFileSync(join(model, "tokenizer.model"), trainTokenizer(texts, { vocabSize: 400 }));
  const data = dialogues("receipts.json", texts.slice(1, 3));
  const run = (name: string, more: Partial<TrainInput>) =>
    runWith({ ...input, model, data, max_steps: 1, eval_data: data, ...more, output: join(folder, name) });

  function dialogues(name: string, answers: string[]): string {
    const file = join(folder, name);
    const turns = answers.map((value) => [
      { from: "human", value: texts[0] },
      { from: "gpt", value },
    ]);
    writeFileSync(file, JSON.stringify(turns.map((conversations, id) => ({ id, conversations }))));
    return file;
  }

  it("are recorded for each answer and in all, every one of them", async () => {
    expect(await run("texts", { metric: "field_f1" })).toMatchObject({ result: { ended: "finished" } });
    const answers = await readRecords<AnswerRecord>(join(folder, "texts", "answers.jsonl"));
    const scored = answers.map(({ answer, expected }) => scoresOf(answer!, expected!));
    expect(answers.map(({ expected }) => expected)).toEqual(texts.slice(1, 3));
    expect(answers.map(({ metrics }) => metrics)).toEqual(scored.map((scores) => metricsOf([scores])));
    const [record] = await readRecords<EvalRecord>(join(folder, "texts", "evals.jsonl"));
    expect(record!.metrics).toEqual(metricsOf(scored));
    expect(Object.keys(record!.metrics!).sort()).toEqual([...METRIC_NAMES].sort());
    expect(record).toMatchObject({ anls: record!.metrics!.anls, exactMatch: record!.metrics!.exact_match });
  });

  it.each<[string, Partial<TrainInput>, RegExp]>([
    [
      "cer without a tokenizer",
      { model: input.model, data: input.data, eval_data: input.data, metric: "cer" },
      /metric cer compares texts.*no tokenizer/,
    ],
    [
      "field_f1 without JSON",
      { eval_data: dialogues("plain.json", ["12.50"]), metric: "field_f1" },
      /no expected answer of the 1 sample .* is a JSON object/,
    ],
    [
      "wer without evaluations",
      { eval_data: undefined, metric: "wer" },
      /^metric needs eval_data or val_size\.$/,
    ],
  ])("are refused before anything is planned where they mean nothing: %s", async (name, more, message) => {
    const outcome = await run(name, more);
    expect(outcome).toMatchObject({ error: { message: expect.stringMatching(message) } });
    expect(outcome.events.some(({ fact }) => fact === "plan")).toBe(false);
  });
});

it("change nothing of the training, and without eval_data there are none", async () => {
  const [plain, evaluated] = [join(folder, "plain"), join(folder, "evaluated")];
  await runWith({ ...input, max_steps: 4, lora_dropout: 0.2, output: plain });
  await runWith({
    ...input,
    max_steps: 4,
    lora_dropout: 0.2,
    output: evaluated,
    eval_data: input.data,
    eval_every: 1,
  });
  expect(hashesBelow(join(evaluated, "adapter"))).toEqual(hashesBelow(join(plain, "adapter")));
  expect(existsSync(join(plain, "best"))).toBe(false);
});

it("answers that the plan has no room for are told at the start and count as wrong; those that it has room for are made", async () => {
  const [data, eval_data] = ["short.jsonl", "long.jsonl"].map((name) => join(folder, name)) as [
    string,
    string,
  ];
  const lines = readFileSync(input.data, "utf8").split("\n");
  writeFileSync(data, `${lines[0]}\n${lines[1]}\n`);
  const input_ids = Array.from({ length: 2600 }, (_, at) => 3 + (at % 90));
  const labels = input_ids.map((id, at) => ((at > 20 && at < 30) || at > 2580 ? id : -100)); // two answers
  writeFileSync(eval_data, `${lines[0]}\n${JSON.stringify({ input_ids, labels })}\n`);
  const found = new Set<number>();
  for (const memory of MEMORIES) {
    const output = join(folder, `answers-${memory}`);
    const options = { ...input, data, eval_data, max_steps: 1, max_length: 3000, memory, output };
    const { events, ...end } = await runWith(options);
    expect(end).toMatchObject({ result: { ended: "finished" } });
    const [planned] = events.flatMap((event) => (event.fact === "plan" ? [event] : []));
    const { count: left, total } = planned!.evaluation!.unanswered ?? { count: 0, total: 3 };
    expect(total).toBe(3);
    const told = planLines(planned!).filter((line) => line.includes(`${left} of the evaluation's 3 answers`));
    expect(told).toHaveLength(left > 0 ? 1 : 0);
    const [record] = await readRecords<EvalRecord>(join(output, "evals.jsonl"));
    expect(record!.unanswered ?? 0).toBe(left);
    expect(noticesOf(events).filter((text) => text.startsWith("no answer"))).toEqual([]);
    found.add(left);
  }
  expect([...found].sort()).toEqual([0, 1]);
});

it("val_size sets samples aside, documents whole: they are evaluated on and never trained on, also after a resume", async () => {
  const data = join(folder, "documents.jsonl");
  const texts = readFileSync(input.data, "utf8")
    .trimEnd()
    .split("\n")
    .filter((_, at) => at !== 2 && at !== 5);
  const records = texts.map((line, at) => JSON.stringify({ ...JSON.parse(line), id: `document-${at >> 1}` }));
  writeFileSync(data, records.map((record) => `${record}\n`).join("")); // documents of 2, 2 and 1 samples
  const options = { ...input, data, val_size: 2, shuffle: true, epochs: 3, save_every: 1 };
  const [whole, parts] = [join(folder, "val-whole"), join(folder, "val-parts")];
  const { events } = await runWith({ ...options, output: whole });
  const indexes = (found: readonly SampleSource[]): number[] =>
    [...new Set(found.map(({ index }) => index))].sort();
  const trained = indexes(events.flatMap((fact) => (fact.fact === "microBatch" ? fact.samples : [])));
  const [evaluated] = events.flatMap((fact) => (fact.fact === "eval" ? [fact] : []));
  const aside = indexes(evaluated!.losses.map(({ sample }) => sample));
  expect([...trained, ...aside].sort()).toEqual([0, 1, 2, 3, 4]);
  expect([
    [0, 1],
    [2, 3],
    [0, 1, 4],
    [2, 3, 4],
  ]).toContainEqual(aside);
  expect(noticesOf(events)).toContainEqual(
    expect.stringContaining(`${aside.length} of 5 samples set aside for evaluation`),
  );

  await runWith({ ...options, output: parts }, { stopAfterMicroBatches: 2 });
  const rest = await runWith({ ...options, output: parts, resume: true });
  expect(rest).toMatchObject({ result: { ended: "finished" } });
  expect(resultOf(parts)).toEqual(resultOf(whole));
  expect(await runWith({ ...options, val_size: 0.5, output: whole, resume: true })).toMatchObject({
    error: { message: expect.stringContaining("val_size was 2, is 0.5") },
  });
});
