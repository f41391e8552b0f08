/**
 * Memory runs out during a whole run: in a micro-batch, an update, an evaluation. A resumed run remembers it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { expect, it } from "vitest";
import { planLines } from "../../src/cli/run/planLines.ts";
import { formatBytes, UserError } from "../../src/errors.ts";
import { Policy } from "../../src/step/policy.ts";
import { failAtAllocation, liveTensors, memoryStats, POOLS, setCap } from "../../src/torch/device.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { makeWorkplace, noticesOf, resultOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
/** The first two samples: short texts without pictures. */
const texts = join(folder, "texts.jsonl");
writeFileSync(texts, readFileSync(input.data, "utf8").split("\n").slice(0, 2).join("\n"));
const options = { ...input, data: texts, max_steps: 3, gradient_accumulation: 2 };
const MEMORY = 2_000_000;
/**
 * With moments on the host an update takes memory on the device. The kernel that updates moments on the
 * device takes none.
 */
const VISITING = Policy.parse({ optimizer: { place: "host" } });

/** Makes the n-th allocation after the first event of a kind fail. */
function failAfter(kind: RunFact["fact"], n = 1): (event: RunFact) => void {
  let armed = true;
  return ({ fact }) => {
    if (fact !== kind || !armed) return;
    armed = false;
    failAtAllocation("cpu", n);
  };
}

const live = (): number[] => [
  memoryStats("cpu").liveBytes,
  memoryStats("cpu", "host").liveBytes,
  liveTensors(),
];

it("a planned run that is stopped within a step and goes on ends with the same bytes", async () => {
  const [whole, parts] = [join(folder, "whole"), join(folder, "parts")];
  const planned = { ...options, memory: MEMORY, host_memory: MEMORY };
  await runWith({ ...planned, output: whole });
  await runWith({ ...planned, output: parts }, { stopAfterMicroBatches: 3 });
  const { events, ...end } = await runWith({ ...planned, output: parts, resume: true });
  expect(end).toMatchObject({ result: { ended: "finished", step: 3 } });
  expect(resultOf(parts)).toEqual(resultOf(whole));
  expect(events.some(({ fact }) => fact === "defect")).toBe(false);
});

it("with little memory on the host the copy of the gradients lies where there is room, and both pools are as planned", async () => {
  const lines = readFileSync(input.data, "utf8").split("\n");
  const data = join(folder, "picture.jsonl");
  writeFileSync(data, `${lines[2]}\n`); // even the shortest sample has a picture
  for (const host_memory of [0, 20_000, 5_000_000]) {
    const output = join(folder, `host-${host_memory}`);
    const planned = { ...options, data, memory: 4 * MEMORY, host_memory, planned_step: true };
    const { events, ...end } = await runWith({ ...planned, output });
    expect(end).toMatchObject({ result: { ended: "finished" } });
    for (const event of events) {
      if (event.fact !== "step") continue;
      const { measured, planned } = event.peaks;
      for (const pool of POOLS) expect(measured[pool].bytes, pool).toBe(planned![pool].peakBytes);
    }
  }
});

it("the plan's lines tell frozen weights that stay in the checkpoint's files apart from what the host holds", async () => {
  const output = join(folder, "mapped");
  const { events } = await runWith({ ...options, memory: 200_000, output });
  const [planned] = events.flatMap((event) => (event.fact === "plan" ? [event] : []));
  const { hostBytes, mappedBytes } = planned!.step!;
  expect(mappedBytes).toBeGreaterThan(0);
  const [total, policy] = planLines(planned!).filter((line) => /^(planned|policy)/.test(line));
  expect(total).toContain(
    `, and ${formatBytes(hostBytes)} on the host, and ${formatBytes(mappedBytes)} mapped `,
  );
  expect(policy).toMatch(
    /^policy: ([^,]* on the host, )?embeddings and vision tower in the checkpoint's files/,
  );
});

it("a run's policy is kept, and can be given to another", async () => {
  const output = join(folder, "kept");
  await runWith({ ...options, memory: MEMORY, output });
  const policy = join(output, "policy.json");
  const again = join(folder, "again");
  expect(await runWith({ ...options, policy, output: again })).toMatchObject({
    result: { ended: "finished" },
  });
  expect(readFileSync(join(again, "policy.json"), "utf8")).toBe(readFileSync(policy, "utf8"));
});

it("a step down the ladder is told once, and remembered when the run goes on", async () => {
  const output = join(folder, "ladder");
  const before = live();
  const hooks = { onFact: failAfter("phase"), stopAfterMicroBatches: 3 };
  const { events } = await runWith({ ...options, output }, hooks);
  expect(noticesOf(events)).toEqual([
    expect.stringMatching(/^Step 1: .*texts\.jsonl:1: sample 0: out of memory/),
  ]);
  const stateOf = (name: string) =>
    JSON.parse(readFileSync(join(output, name, "trainer_state.json"), "utf8")).stepsDown;
  expect(stateOf("checkpoint-1-micro-1")).toHaveLength(1);
  const rest = await runWith({ ...options, output, resume: true });
  expect(rest).toMatchObject({ result: { ended: "finished" } });
  expect(noticesOf(rest.events)).toEqual([]);
  expect(stateOf("checkpoint-3")).toHaveLength(1);
  expect(live()).toEqual(before);
});

it("while a picture is encoded it costs tiles at a time, and nothing that helps other parts of a step", async () => {
  const output = join(folder, "tiles");
  const data = join(folder, "tiles.jsonl");
  const sample = JSON.parse(readFileSync(input.data, "utf8").split("\n")[2]!);
  writeFileSync(data, JSON.stringify({ ...sample, hd_num: 4 }));
  let armed = true;
  const onFact = (event: RunFact): void => {
    if (!armed || event.fact !== "phase" || event.phase.phase !== "vision") return;
    armed = false;
    failAtAllocation("cpu", 1);
  };
  const policy = Policy.parse({ visionBatchTiles: 2 });
  const { events, ...end } = await runWith({ ...options, data, policy, max_steps: 1, output }, { onFact });
  expect(end).toMatchObject({ result: { ended: "finished" } });
  expect(noticesOf(events)).toEqual([
    expect.stringContaining("use less memory: 1 tile of a picture at a time."),
  ]);
  const state = JSON.parse(readFileSync(join(output, "checkpoint-1", "trainer_state.json"), "utf8"));
  expect(state.stepsDown).toEqual([{ tokens: expect.any(Number), short: "visionFeatures" }]);
});

it("in an update it costs a notice, and the run ends with the same bytes", async () => {
  const [peaceful, output] = ["peaceful", "update"].map((name) => join(folder, name));
  const once = { ...options, gradient_accumulation: 1, policy: VISITING };
  await runWith({ ...once, output: peaceful });
  const before = live();
  const { events, ...end } = await runWith({ ...once, output }, { onFact: failAfter("microBatch") });
  expect(end).toMatchObject({ result: { ended: "finished" } });
  expect(noticesOf(events)).toEqual([
    expect.stringMatching(/^The update of step 1: out of memory.* with the same result\.$/),
  ]);
  expect(resultOf(output!)).toEqual(resultOf(peaceful!));
  expect(live()).toEqual(before);
});

it("without memory for the least part of an update the run ends with the way on, and leaves no tensor", async () => {
  const output = join(folder, "no-update");
  const before = live();
  const onFact = ({ fact }: RunFact): void => {
    if (fact === "microBatch") setCap("cpu", memoryStats("cpu").liveBytes);
  };
  const once = { ...options, gradient_accumulation: 1, policy: VISITING };
  const outcome = await runWith({ ...once, output }, { onFact });
  const { error } = outcome as { error: UserError };
  expect(error).toBeInstanceOf(UserError);
  expect(error.message).toMatch(/^The update of step 1 does not fit: /);
  expect(error.fix).toContain("Pass more --memory.");
  expect(live()).toEqual(before);
});

it("in an evaluation it costs an answer at most, and no loss", async () => {
  const evaluated = { ...options, max_steps: 1, eval_data: texts, seed: 1 };
  const peace = await runWith({ ...evaluated, output: join(folder, "peace") });
  const before = live();
  const told = new Set<string>();
  for (const n of [1, 40, 400, 500, 600, 700]) {
    const output = join(folder, `eval-${n}`);
    const { events, ...end } = await runWith({ ...evaluated, output }, { onFact: failAfter("step", n) });
    failAtAllocation("cpu", 0);
    expect(end).toMatchObject({ result: { ended: "finished" } });
    const [evaluation, expected] = [events, peace.events].map((all) =>
      all.flatMap((event) => (event.fact === "eval" ? [event.record] : [])),
    );
    expect(evaluation![0]!.loss).toBeCloseTo(expected![0]!.loss, 5);
    const [notice = "nothing"] = noticesOf(events);
    if (notice.startsWith("no answer to")) expect(evaluation![0]!.unanswered).toBe(1);
    told.add(notice.split(" ").slice(0, 2).join(" "));
    expect(live()).toEqual(before);
  }
  expect([...told]).toEqual(expect.arrayContaining(["no answer"]));
  expect([...told].some((words) => words.startsWith("Evaluation:"))).toBe(true);
});

it("the memory that a refusal names is enough, also for a copy of the gradients that the host has no room for", async () => {
  const tight = { ...options, lora_r: 64, memory: 1_000_000, host_memory: 20_000 };
  const { error } = (await runWith({ ...tight, output: join(folder, "small") })) as { error: UserError };
  expect(error.message).toMatch(/^976\.6 KiB( and 19\.5 KiB of the host)? is too little: /);
  const [, memory, host] = /--memory (\d+MiB)(?: --host-memory (\d+MiB))?/.exec(error.fix!)!;
  const enough = { ...tight, memory: memory!, ...(host && { host_memory: host }) };
  const output = join(folder, "enough");
  expect(await runWith({ ...enough, output })).toMatchObject({ result: { ended: "finished" } });
});

it("the hd_num and the max_length that a refusal names do fit", async () => {
  const data = join(folder, "large.jsonl");
  const background = { r: 9, g: 90, b: 200 };
  await sharp({ create: { width: 1300, height: 900, channels: 3, background } }).toFile(
    join(folder, "large.png"),
  );
  const input_ids = [1, -200, 5, 6, 7, 8];
  writeFileSync(
    data,
    `${JSON.stringify({ input_ids, labels: [-100, -100, 5, 6, 7, 8], images: ["large.png"] })}\n${readFileSync(texts, "utf8")}`,
  );
  const tight = { ...options, data, hd_num: 12, memory: 6_000_000, max_steps: 3 };
  const { error } = (await runWith({ ...tight, output: join(folder, "refused") })) as { error: UserError };
  expect(error).toBeInstanceOf(UserError);
  const [, hdNum] = /--hd-num (\d+)/.exec(error.fix!)!;
  const [, maxLength] = /--max-length (\d+) --skip-bad/.exec(error.fix!)!;
  const fewerTiles = { ...tight, hd_num: Number(hdNum), output: join(folder, "fewer-tiles") };
  expect(await runWith(fewerTiles)).toMatchObject({ result: { ended: "finished" } });
  const shorter = {
    ...tight,
    max_length: Number(maxLength),
    skip_bad: true,
    output: join(folder, "shorter"),
  };
  expect(await runWith(shorter)).toMatchObject({ result: { ended: "finished" } });
});
