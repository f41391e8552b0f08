/** Decisions of a run by several real processes: all ranks act alike, and only rank 0 writes. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { expect, it } from "vitest";
import { checkpointFolders } from "../../src/train/folder/checkpoints.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { hashesBelow, makeWorkplace, resultOf, runWith } from "../faults/trainRun.ts";
import { type RankEnd, runRanks, startRanks } from "../helpers/ranks/ranks.ts";
import type { RankRun, TrainArgs } from "./train.rank.ts";

const { folder, input } = await makeWorkplace();
const body = new URL("./train.rank.ts", import.meta.url);
const usual = {
  ...input,
  ...{ max_steps: 6, gradient_accumulation: 4, shuffle: true, lora_dropout: 0.2, save_every: 2 },
};

function ranksWith(count: number, { options, ...args }: TrainArgs): Promise<RankRun[]> {
  return runRanks<RankRun>(count, body, { args: { ...args, options: { ...usual, ...options } } });
}

/** Runs ranks of which some may fail, and returns how each ended. */
async function endsWith(count: number, { options, ...args }: TrainArgs): Promise<RankEnd[]> {
  await using running = await startRanks(count, body, {
    args: { ...args, options: { ...usual, ...options } },
  });
  return await running.ends;
}

/** Result of a run but what depends on the number of ranks, or on its waiting. */
function numbersOf(output: string): unknown {
  const { adapters, evals, steps } = resultOf(output) as Record<string, object[]>;
  return { adapters, evals, steps: steps!.map((step) => ({ ...step, waitRatio: 0 })) };
}

it("a killed rank ends the others with its name; resumed, the run ends with the same bytes", async () => {
  const whole = join(folder, "whole");
  await ranksWith(2, { options: { output: whole } as TrainInput });
  const output = join(folder, "killed");
  const ends = await endsWith(2, { options: { output } as TrainInput, kill: { rank: 1, step: 4 } });
  expect(ends[1]!.signal).toBe("SIGKILL");
  expect(ends[0]!.error).toMatchObject({ name: "LostPeersError", rank: 1 }); // by which main.ts exits
  expect(ends[0]!.error!.message).toMatch(/^Rank 1 \(host .*\) is lost: /);
  // rank 0 has saved the state before the step
  expect((await checkpointFolders(output)).at(-1)).toBe(join(output, "checkpoint-3"));
  await ranksWith(2, { options: { output, resume: true } as TrainInput });
  expect(numbersOf(output)).toEqual(numbersOf(whole));
});

it("a rank that fails tells the others why", async () => {
  const ends = await endsWith(3, {
    options: { output: join(folder, "failing") } as TrainInput,
    ofRank: { 2: { data: join(folder, "missing.jsonl") } },
  });
  for (const { error } of ends) expect(error!.message).toContain("missing.jsonl");
});

it("Ctrl-C on one rank stops all after the same step; the run goes on to the same bytes, on another number with the same data", async () => {
  const whole = join(folder, "exact whole");
  const exact = { exact_sum: true } as TrainInput;
  await ranksWith(2, { options: { ...exact, output: whole } });
  const output = join(folder, "interrupted");
  const stopped = await ranksWith(2, {
    options: { ...exact, output },
    interrupt: { rank: 1, step: 3 },
  });
  for (const { result } of stopped)
    expect(result).toEqual({ ended: "interrupted", step: 3, checkpoint: join(output, "checkpoint-3") });
  expect(await checkpointFolders(output)).toContain(join(output, "checkpoint-3"));
  await ranksWith(3, { options: { ...exact, output, resume: true, stop_at_step: 5 } });
  const alone = await runWith({ ...usual, ...exact, output, resume: true } as TrainInput);
  expect(alone).toMatchObject({ result: { ended: "finished" } });
  const withoutRanks = (of: string): unknown => {
    const { adapters, steps } = numbersOf(of) as { adapters: unknown; steps: object[] };
    return { adapters, steps: steps.map((step) => ({ ...step, ranks: 0 })) };
  };
  expect(withoutRanks(output)).toEqual(withoutRanks(whole)); // any number of ranks, with --exact-sum
});

it("a run that one process left within a step goes on by ranks, with the gradients of before", async () => {
  const options = { ...usual, lora_dropout: 0.2, max_steps: 3 } as TrainInput;
  const whole = join(folder, "one process");
  await runWith({ ...options, output: whole });
  const output = join(folder, "left within a step");
  await runWith({ ...options, output }, { stopAfterMicroBatches: 6 });
  expect((await checkpointFolders(output)).at(-1)).toMatch(/checkpoint-1-micro-2$/);
  await ranksWith(2, { options: { ...options, output, resume: true } });
  const lossesOf = (of: string): number[] =>
    (resultOf(of).steps as { loss: number }[]).map(({ loss }) => loss);
  for (const [index, loss] of lossesOf(output).entries())
    expect(loss).toBeCloseTo(lossesOf(whole)[index]!, 5);
});

it("evaluations give the numbers of one process, end the run early at the same step, and keep the best adapter", async () => {
  const options = {
    ...usual,
    ...{ max_steps: 12, eval_data: input.data, eval_every: 1, exact_sum: true, learning_rate: 0.2 },
    early_stop: 2,
  } as unknown as TrainInput;
  const one = join(folder, "evaluated alone");
  const ended = await runWith({ ...options, output: one });
  expect(ended).toMatchObject({ result: { ended: "finished", reason: "early_stop" } });
  const several = join(folder, "evaluated together");
  const runs = await ranksWith(3, { options: { ...options, output: several } });
  for (const { result } of runs) {
    const { step, reason } = (ended as { result: { step: number; reason: string } }).result;
    expect(result).toMatchObject({ ended: "finished", step, reason });
  }
  const { adapters, evals } = resultOf(several);
  expect({ adapters, evals }).toEqual({ adapters: resultOf(one).adapters, evals: resultOf(one).evals });
  const answers = (output: string): string => readFileSync(join(output, "answers.jsonl"), "utf8");
  expect(answers(several)).toBe(answers(one));
});

it("a rank with text alone waits for one with 55 tiles, and both go on", async () => {
  const wide = join(folder, "wide.png");
  const background = { r: 10, g: 90, b: 200 };
  await sharp({ create: { width: 336 * 11, height: 336 * 5, channels: 3, background } }).toFile(wide);
  const data = join(folder, "wide.jsonl");
  const picture = {
    input_ids: [1, -200, 5, 6, 7],
    labels: [-100, -100, -100, 6, 7],
    images: [wide],
    hd_num: 55,
  };
  const text = { input_ids: [1, 8, 9, 10], labels: [-100, 8, 9, 10] };
  writeFileSync(data, [picture, text, text].map((line) => `${JSON.stringify(line)}\n`).join(""));
  const options = {
    ...usual,
    data,
    shuffle: false,
    gradient_accumulation: 3,
    max_steps: 2,
    max_length: 20_000,
  };
  const output = join(folder, "wide run");
  const runs = await ranksWith(2, { options: { ...options, output } as TrainInput });
  const picturesOf = ({ facts }: RankRun): number[] =>
    facts.flatMap((fact) => (fact.fact === "microBatch" ? [fact.pictures] : []));
  expect(picturesOf(runs[0]!)).toEqual([1, 1]); // one long micro-batch a step beside two short ones
  expect(picturesOf(runs[1]!)).toEqual([0, 0, 0, 0]);
});

it("a loss that is not finite ends all ranks, names the sample, and no rank saves", async () => {
  const output = join(folder, "not finite");
  const options = {
    ...usual,
    output,
    learning_rate: 1e30,
    max_grad_norm: 0,
    save_every: 100,
    lr_schedule: "constant",
  };
  const ends = await endsWith(2, { options: options as unknown as TrainInput });
  for (const { error } of ends) expect(error!.message).toMatch(/data\.jsonl.* is not a finite number/);
  expect(new Set(ends.map(({ error }) => error!.message.replace(/^Rank \d: /, ""))).size).toBe(1);
  expect(await checkpointFolders(output)).toEqual([]);
});

it("a picture that is gone ends all ranks, or with --skip-bad is left out alike", async () => {
  const gone = join(folder, "2.png");
  const aside = join(folder, "aside.png");
  const output = join(folder, "skipping");
  const options = { ...usual, shuffle: false, skip_bad: true, max_steps: 4, exact_sum: true } as TrainInput;
  const one = join(folder, "skipping alone");
  const bodyArgs = { vanish: { from: gone, to: aside } };
  await runWith(
    { ...options, output: one },
    {
      onFact: (fact) => {
        if (fact.fact === "start") renameSync(gone, aside);
      },
    },
  );
  renameSync(aside, gone);
  const stepsOf = (of: string): { loss: number; gradNorm: number }[] => resultOf(of).steps as never;
  for (const exact_sum of [true, false]) {
    const several = join(output, exact_sum ? "exact" : "once a step"); // the sum of a step's first share counts once
    await ranksWith(2, { options: { ...options, exact_sum, output: several }, ...bodyArgs });
    renameSync(aside, gone);
    expect(stepsOf(several)).toHaveLength(4);
    for (const [index, { loss, gradNorm }] of stepsOf(several).entries()) {
      const same = stepsOf(one)[index]!;
      expect(loss).toBeCloseTo(same.loss, 5);
      expect(gradNorm / same.gradNorm).toBeCloseTo(1, 4);
    }
  }

  const ends = await endsWith(2, {
    options: { ...options, skip_bad: false, output: join(folder, "gone") },
    ...bodyArgs,
  });
  renameSync(aside, gone);
  for (const { error } of ends) expect(error!.message).toContain("2.png");
});

it("ranks other than 0 write nothing: with a folder of their own it stays empty", async () => {
  const own = join(folder, "of rank 1");
  mkdirSync(own);
  const output = join(folder, "of rank 0");
  await ranksWith(2, {
    options: { ...usual, output, eval_data: input.data, eval_every: 2 } as unknown as TrainInput,
    ofRank: { 1: { output: own } },
  });
  expect(readdirSync(own)).toEqual([]);
  expect(existsSync(join(output, "adapter"))).toBe(true);
  expect(hashesBelow(join(output, "adapter")).length).toBeGreaterThan(0);
});
