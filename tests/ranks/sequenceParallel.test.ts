/** Training by processes that share the rows of each sample: the run is that of one process. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { EvalRecord, StepRecord } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, makeWorkplace, runWith } from "../faults/trainRun.ts";
import { runRanks } from "../helpers/ranks/ranks.ts";
import type { RankRun, TrainArgs } from "./train.rank.ts";

const { folder, input } = await makeWorkplace();
const body = new URL("./train.rank.ts", import.meta.url);
const usual = {
  ...input,
  ...{ max_steps: 6, gradient_accumulation: 2, batch_size: 2, lora_dropout: 0.2, max_grad_norm: 0.5 },
  ...{ learning_rate: 1e-3, eval_data: input.data, eval_every: 3 },
};

const recordsOf = <T>(output: string, file: string): T[] =>
  readFileSync(join(output, file), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));

it("is the run of one process: losses, norms, tokens and evaluations, and the same bytes again", async () => {
  const one = join(folder, "one");
  const ended = await runWith({ ...usual, output: one } as TrainInput);
  if ("error" in ended) throw ended.error;
  const outputs = ["two", "again"].map((name) => join(folder, name));
  for (const output of outputs) {
    const options = { ...usual, output, sequence_parallel: 2 } as TrainInput;
    const args: TrainArgs = { options };
    const runs = await runRanks<RankRun>(2, body, { args });
    expect(runs.map(({ result }) => result.ended)).toEqual(["finished", "finished"]);
  }
  const [alone, shared] = [one, outputs[0]!].map((output) => recordsOf<StepRecord>(output, "steps.jsonl"));
  expect(shared).toHaveLength(6);
  for (const [index, { loss, gradNorm, tokens }] of shared!.entries()) {
    const expected = alone![index]!;
    expect(tokens).toBe(expected.tokens);
    expect(Math.abs(loss / expected.loss - 1)).toBeLessThan(1e-4);
    expect(Math.abs(gradNorm / expected.gradNorm - 1)).toBeLessThan(1e-3);
  }
  const evals = [one, outputs[0]!].map((output) => recordsOf<EvalRecord>(output, "evals.jsonl"));
  expect(evals[1]!.map(({ samples, labelTokens }) => [samples, labelTokens])).toEqual(
    evals[0]!.map(({ samples, labelTokens }) => [samples, labelTokens]),
  );
  evals[1]!.forEach(({ loss }, index) => {
    expect(Math.abs(loss / evals[0]![index]!.loss - 1)).toBeLessThan(1e-4);
  });
  const [first, second] = outputs.map((output) => hashesBelow(join(output, "adapter")));
  expect(second).toEqual(first);
});

it("continues on one process", async () => {
  const output = join(folder, "continued");
  const options = { ...usual, output, stop_at_step: 3 } as TrainInput;
  await runRanks<RankRun>(2, body, { args: { options: { ...options, sequence_parallel: 2 } } });
  const ended = await runWith({ ...usual, output, resume: true } as TrainInput);
  expect("error" in ended ? ended.error : ended.result.ended).toBe("finished");
  expect(recordsOf<StepRecord>(output, "steps.jsonl")).toHaveLength(6);
});
