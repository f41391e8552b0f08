/**
 * Faults that stop a run, or nearly: numbers that are not finite, too little memory, pictures that vanish, a
 * disk that fails.
 */
import { execFileSync } from "node:child_process";
import { closeSync, constants, existsSync, openSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.ts";
import { liveTensors, memoryStats } from "../../src/torch/device.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { train } from "../../src/train/loop/trainer.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, noticesOf, resultOf, runWith } from "./trainRun.ts";

const { folder, input, pictures } = await makeWorkplace();
let count = 0;
let output: string;
beforeEach(() => {
  output = join(folder, `run-${count++}`);
});

async function errorOf(
  options: Partial<TrainInput>,
  hooks: Parameters<typeof runWith>[1] = {},
): Promise<UserError> {
  const outcome = await runWith({ ...input, output, ...options } as TrainInput, hooks);
  if (!("error" in outcome)) throw new Error(`the run ended: ${JSON.stringify(outcome.result)}`);
  if (!(outcome.error instanceof UserError)) throw outcome.error;
  return outcome.error;
}

describe("a loss or gradient that is not finite", () => {
  // At this rate the factors are so large after step 3 that everything is infinite. Steps 1 and 2 belong to
  // the warm-up.
  const diverging = { max_steps: 9, learning_rate: 1e30, warmup_steps: 2, weight_decay: 0 };

  it("names step, sample, and no checkpoint where there is none", async () => {
    const { message, fix } = await errorOf(diverging);
    expect(message).toBe(
      `Step 3: the loss of ${input.data}:3: sample 2 is not a finite number. There is no good checkpoint before it.`,
    );
    expect(fix).toContain(`--learning-rate ${diverging.learning_rate / 2} --output <another folder>`);
  });

  it("names the last checkpoint whose factors gave a finite loss, not the one that broke it", async () => {
    const { message, fix } = await errorOf({ ...diverging, save_every: 1 });
    const good = join(output, "checkpoint-1");
    expect(message).toContain(`The last good checkpoint is ${good}.`);
    expect(fix).toContain(`--adapter ${good} `);
    const again = { ...input, adapter: good, max_steps: 2, output: join(output, "anew") };
    expect(await runWith(again)).toMatchObject({ result: { ended: "finished" } });
  });

  it("stops an evaluation too", async () => {
    const { message } = await errorOf({ ...diverging, eval_data: input.data, eval_every: 1 });
    expect(message).toContain(`the loss of ${input.data}:1: sample 0 is not a finite number`);
    expect(existsSync(join(output, "best"))).toBe(true);
  });
});

describe("too little memory", () => {
  const cap = (bytes: number): Partial<TrainInput> => ({ max_steps: 9, memory: bytes });
  const own = { head_groups: 1 }; // a policy that the user chose is tried unchanged

  it("for a micro-batch names step, sample, tokens and what to do, and gives back every byte", async () => {
    const before = [memoryStats("cpu").liveBytes, liveTensors()];
    const { message, fix } = await errorOf({ ...cap(700_000), ...own });
    expect(message).toMatch(
      /^Step 3: .*data\.jsonl:3: sample 2 \(328 tokens\) does not fit even under the leanest policy: out of memory on cpu: /,
    );
    expect(message).toContain("cap 683.6 KiB");
    expect(fix).toMatch(/^Pass more --memory\n/);
    expect([memoryStats("cpu").liveBytes, liveTensors()]).toEqual(before);
    expect(memoryStats("cpu").capBytes).toBeUndefined();

    const after = await runWith({ ...input, output, max_steps: 3 } as TrainInput);
    expect(after).toMatchObject({ result: { ended: "finished" } });
  });

  it("for the model is said as well", async () => {
    const before = memoryStats("cpu").liveBytes;
    const { message, fix } = await errorOf({ ...cap(20_000), ...own });
    expect(message).toMatch(/^The run does not fit: out of memory on cpu: /);
    expect(fix).toContain("--memory");
    expect(memoryStats("cpu").liveBytes).toBe(before);
  });

  it("is said before anything is loaded, with the longest sample, its tokens, and what would do", async () => {
    const { message, fix } = await errorOf(cap(700_000));
    expect(message).toMatch(
      /^683\.6 KiB is too little: the longest sample, .*data\.jsonl:6: sample 5, has 354 tokens, which needs at least 4\.\d MiB\.$/,
    );
    expect(fix).toMatch(/^Pass --memory 5MiB\nor {3}--max-length \d+ --skip-bad/);
    expect(memoryStats("cpu").capBytes).toBeUndefined();
    const enough = await runWith({ ...input, output, ...cap(5 * 2 ** 20) });
    expect(enough).toMatchObject({ result: { ended: "finished" } });
  });

  it("a run that fits gives back every byte too, also where it is interrupted", async () => {
    const before = [memoryStats("cpu").liveBytes, liveTensors()];
    await runWith({ ...input, output, max_steps: 6, gradient_accumulation: 2 }, { stopAfterMicroBatches: 3 });
    expect([memoryStats("cpu").liveBytes, liveTensors()]).toEqual(before);
  });
});

describe("a picture that vanishes during the run", () => {
  const away = (path: string): string => `${path}.away`;
  const hide = (paths: string[]) => (event: { fact: string }) => {
    if (event.fact === "start") for (const path of paths) renameSync(path, away(path));
  };
  afterEach(() => {
    for (const path of pictures) if (existsSync(away(path))) renameSync(away(path), path);
  });

  it("stops it with the sample, the picture and the way on", async () => {
    const onFact = hide(pictures);
    const { message, fix } = await errorOf({ max_steps: 9, save_every: 1 }, { onFact });
    expect(message).toContain(`${input.data}:3: sample 2 shows a picture that can't be used.`);
    expect(message).toContain(pictures[0]);
    expect(fix).toContain(`npx lorafit train --resume ${output}`);
    for (const path of pictures) renameSync(away(path), path);
    const rest = await runWith({ ...input, output, max_steps: 9, save_every: 1, resume: true });
    expect(rest).toMatchObject({ result: { ended: "finished", step: 9 } });
  });

  it("is told after what was learned up to it has been saved", async () => {
    const onFact = hide(pictures);
    const given = { max_steps: 5, gradient_accumulation: 2, lora_dropout: 0.1 };
    const { fix } = await errorOf(given, { onFact }); // the third sample is the first of the second step
    expect(fix).toContain(`The last good checkpoint is ${join(output, "checkpoint-1")}.`);
    for (const path of pictures) renameSync(away(path), path);
    expect(await runWith({ ...input, ...given, output, resume: true })).toMatchObject({
      result: { ended: "finished", step: 5 },
    });
    const whole = join(folder, `whole-${count}`);
    await runWith({ ...input, ...given, output: whole });
    expect(resultOf(output)).toEqual(resultOf(whole));
  });

  it("behind a disk that does not answer keeps no run from being stopped and saved", async () => {
    const [picture] = pictures as [string];
    const silent = (event: RunFact): void => {
      if (event.fact !== "start") return;
      renameSync(picture, away(picture));
      execFileSync("mkfifo", [picture]); // a read waits until somebody writes
    };
    const options = { ...input, output, max_steps: 5, lora_dropout: 0.1 };
    const interruption = new AbortController();
    let steps = 0;
    const end = await train(options, {
      signal: interruption.signal,
      sinks: [
        {
          take: (fact) => {
            silent(fact);
            if (fact.fact === "step" && ++steps === 2) setTimeout(() => interruption.abort(), 50);
          },
        },
      ],
    });
    expect(end).toEqual({ ended: "interrupted", step: 2, checkpoint: join(output, "checkpoint-2") });
    closeSync(openSync(picture, constants.O_WRONLY | constants.O_NONBLOCK)); // ends the read
    renameSync(away(picture), picture);
    expect(await runWith({ ...options, resume: true })).toMatchObject({ result: { ended: "finished" } });
  });

  it("and is only evaluated on loses nothing of what was learned", async () => {
    const data = join(folder, "text.jsonl");
    writeFileSync(data, readFileSync(input.data, "utf8").split("\n").slice(0, 2).join("\n"));
    const given = { data, max_steps: 4, eval_data: input.data, eval_every: 3, lora_dropout: 0.1 };
    const { message, fix } = await errorOf(given, { onFact: hide(pictures) });
    expect(message).toContain(`${input.data}:3: sample 2 shows a picture that can't be used.`);
    expect(fix).toContain(`The last good checkpoint is ${join(output, "checkpoint-3")}.`);
    for (const path of pictures) renameSync(away(path), path);
    await runWith({ ...input, ...given, output, resume: true });
    const whole = join(folder, `whole-${count}`);
    await runWith({ ...input, ...given, output: whole });
    expect(resultOf(output)).toEqual(resultOf(whole));
  });

  it("and stays away is asked for on resume, or a new run is offered that does without it", async () => {
    await errorOf({ max_steps: 9, save_every: 1 }, { onFact: hide(pictures) });
    const { message, fix } = await errorOf({ max_steps: 9, save_every: 1, resume: true });
    expect(message).toContain(
      `${pictures[0]}: there is no such picture.\n    Put it there, or correct the path.`,
    );
    const [, config, adapter] = /train --config (\S+) --adapter (\S+) --skip-bad --output/.exec(fix!)!;
    expect(config).toBe(join(output, "train.yaml"));
    const anew = { ...input, adapter: adapter!, max_steps: 2, skip_bad: true, output: `${output}-anew` };
    expect(await runWith(anew)).toMatchObject({ result: { ended: "finished" } });
  });

  it("with skip_bad is left out, said once, and the run ends when the rest is done", async () => {
    const onFact = hide(pictures);
    const options = { ...input, output, epochs: 3, gradient_accumulation: 5, skip_bad: true };
    const { events, ...end } = await runWith(options, { onFact });
    expect(end).toMatchObject({ result: { ended: "finished", step: 3 } }); // 15 samples of 21
    expect(noticesOf(events).filter((text) => text.startsWith("left out: "))).toHaveLength(2);
  });

  it("with skip_bad ends a run of which no sample is left", async () => {
    const data = join(folder, "pictures.jsonl");
    const lines = readFileSync(input.data, "utf8").split("\n");
    writeFileSync(data, `${lines[2]}\n${lines[5]}\n`);
    const { message } = await errorOf({ data, max_steps: 9, skip_bad: true }, { onFact: hide(pictures) });
    expect(message).toContain("shows a picture that can't be used");
  });
});

it("samples that are bad from the start are named and counted with skip_bad", async () => {
  const data = join(folder, "some.jsonl");
  const good = readFileSync(input.data, "utf8");
  writeFileSync(
    data,
    `${good}{"input_ids": [1, -200, 5], "labels": [-100, -100, 5], "images": ["nowhere.png"]}\n`,
  );
  const outcome = await runWith({ ...input, data, output, max_steps: 1, skip_bad: true });
  expect(outcome).toMatchObject({ result: { ended: "finished" } });
  expect(noticesOf(outcome.events)).toEqual([
    "left out 1 sample that cannot be used:",
    expect.stringMatching(/^ {2}.*some\.jsonl:8: sample 7 .*nowhere\.png/),
  ]);
});

it("timers fire between the segments of a step", async () => {
  let [phases, turns] = [0, 0];
  const tick = (): void => {
    turns++;
    timer = setImmediate(tick);
  };
  let timer = setImmediate(tick);
  let turnsInStep = 0;
  await runWith(
    { ...input, output, max_steps: 1 },
    {
      onFact: ({ fact }) => {
        if (fact === "phase" && phases++ === 0) turnsInStep = -turns;
        if (fact === "microBatch") turnsInStep += turns;
      },
    },
  );
  clearImmediate(timer);
  expect(phases).toBeGreaterThan(4); // two layers forward and backward, and the loss
  expect(turnsInStep).toBeGreaterThanOrEqual(phases - 1);
});
