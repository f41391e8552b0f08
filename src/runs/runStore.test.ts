import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { lockOutput } from "../train/folder/runLock.ts";
import { RunStore } from "./runStore.ts";
import type { RunSummary } from "./runView.ts";

const places: string[] = [];
afterAll(() => {
  for (const place of places) rmSync(place, { recursive: true, force: true });
});

function newRoot(): string {
  const root = mkdtempSync(join(tmpdir(), "lorafit-runs-"));
  places.push(root);
  process.env.XDG_CACHE_HOME = join(root, ".cache");
  return root;
}

const line = (record: object): string => `${JSON.stringify(record)}\n`;
const step = (at: number, more: object = {}): string =>
  line({
    step: at,
    loss: 1 / at,
    tokens: 100,
    tokensPerSecond: 50,
    stepMs: 2000,
    peakBytes: 1000 + at,
    ...more,
  });
const start = (from: number, totalSteps: number): string =>
  line({ atMs: 1000 + from, fact: "start", options: { lora_r: 8 }, step: from, totalSteps, samples: 5 });
const end = (ended: string, more: object = {}): string =>
  line({ atMs: 5000, fact: "end", ended, step: 3, ...more });

/** Writes a run of three steps, which ended as `facts` say. */
function writeRun(folder: string, facts: string): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "steps.jsonl"), step(1) + step(2) + step(3));
  if (facts) writeFileSync(join(folder, "facts.jsonl"), facts);
}

async function runsIn(
  root: string,
  store = new RunStore(root, { keeps: false }),
): Promise<Map<string, RunSummary>> {
  await store.look();
  return new Map(store.changesSince(0).changed.map((run) => [run.path, run]));
}

it("the end that a run has recorded is its state; without one it has crashed", async () => {
  const root = newRoot();
  writeRun(join(root, "a/finished"), start(0, 3) + end("finished"));
  writeRun(join(root, "a/interrupted"), start(0, 9) + end("interrupted"));
  writeRun(join(root, "failed"), start(0, 9) + end("failed", { message: "The card is lost." }));
  writeRun(join(root, "killed"), start(0, 9));
  writeRun(join(root, "continued and killed"), start(0, 9) + end("interrupted") + start(3, 9));
  const runs = await runsIn(root);
  expect([...runs].map(([path, { state }]) => [path, state]).sort()).toEqual([
    ["a/finished", "finished"],
    ["a/interrupted", "interrupted"],
    ["continued and killed", "crashed"],
    ["failed", "failed"],
    ["killed", "crashed"],
  ]);
  expect(runs.get("failed")).toMatchObject({
    error: "The card is lost.",
    step: 3,
    totalSteps: 9,
    tokens: 300,
  });
  expect(runs.get("failed")!.options).toEqual({ lora_r: 8 });
});

it("a run of an older version, without facts, is known by its folder", async () => {
  const root = newRoot();
  for (const name of ["finished", "saved", "cut"]) writeRun(join(root, name), "");
  mkdirSync(join(root, "finished/adapter"));
  mkdirSync(join(root, "saved/checkpoint-3"));
  writeFileSync(join(root, "saved/train.yaml"), "lora_r: 4\nmax_steps: 9\n");
  const runs = await runsIn(root);
  expect([...runs.values()].map(({ name, state }) => [name, state]).sort()).toEqual([
    ["cut", "crashed"],
    ["finished", "finished"],
    ["saved", "interrupted"],
  ]);
  expect(runs.get("saved")).toMatchObject({ options: { lora_r: 4 }, totalSteps: 9 });
});

it("a run runs as long as its process lives, also before its first step", async () => {
  const root = newRoot();
  const store = new RunStore(root, { keeps: false });
  const free = lockOutput(join(root, "run"));
  expect((await runsIn(root, store)).get("run")).toMatchObject({
    state: "running",
    step: 0,
    lossSparkline: [],
  });
  writeRun(join(root, "run"), start(0, 3));
  expect((await runsIn(root, store)).get("run")).toMatchObject({ state: "running", step: 3 });
  appendFileSync(join(root, "run/facts.jsonl"), end("finished"));
  free();
  expect((await runsIn(root, store)).get("run")).toMatchObject({ state: "finished" });
});

it("the lock of a process that is gone, or of a silent one elsewhere, is no sign of life", async () => {
  const root = newRoot();
  const lockedBy = (name: string, holder: object): void => {
    writeRun(join(root, name), start(0, 9));
    writeFileSync(join(root, name, "run.lock"), JSON.stringify({ started: null, ...holder }));
  };
  lockedBy("gone", { pid: 2 ** 22 + 1, host: hostname() });
  lockedBy("elsewhere", { pid: 1, host: "another-host" });
  lockedBy("group", { pid: -1, host: hostname() });
  const runs = await runsIn(root);
  expect(runs.get("gone")!.state).toBe("crashed");
  expect(runs.get("group")!.state).toBe("crashed");
  expect(runs.get("elsewhere")!.state).toBe("running"); // its logs have just changed
});

it("only what has changed is given again, and what is gone", async () => {
  const root = newRoot();
  const store = new RunStore(root, { keeps: false });
  writeRun(join(root, "one"), start(0, 3) + end("finished"));
  writeRun(join(root, "two"), start(0, 3));
  const free = lockOutput(join(root, "two"));
  await store.look();
  const { version, changed } = store.changesSince(0);
  expect(changed).toHaveLength(2);
  await store.look();
  expect(store.changesSince(version)).toEqual({ changed: [], removed: [], version });
  appendFileSync(join(root, "two/steps.jsonl"), step(4));
  await store.look();
  const next = store.changesSince(version);
  expect(next.changed.map(({ name, step: at }) => [name, at])).toEqual([["two", 4]]);
  const one = changed.find(({ name }) => name === "one")!;
  renameSync(join(root, "one"), join(root, "three"));
  await store.look();
  const last = store.changesSince(next.version);
  expect(last.removed).toEqual([one.id]);
  expect(last.changed.map(({ name }) => name)).toEqual(["three"]);
  free();
});

it("a run that went back to a checkpoint is summed up anew", async () => {
  const root = newRoot();
  const store = new RunStore(root, { keeps: false });
  writeRun(join(root, "run"), start(0, 9));
  const free = lockOutput(join(root, "run"));
  expect((await runsIn(root, store)).get("run")).toMatchObject({ step: 3, tokens: 300, peakBytes: 1003 });
  writeFileSync(join(root, "run/steps.jsonl"), step(1) + step(2, { peakBytes: 7000, tokens: 1 }));
  expect((await runsIn(root, store)).get("run")).toMatchObject({ step: 2, tokens: 101, peakBytes: 7000 });
  free();
});

it("folders behind symbolic links, in checkpoints and hidden ones are not looked into", async () => {
  const root = newRoot();
  const outside = newRoot();
  writeRun(join(outside, "run"), "");
  writeRun(join(root, "run/earlier-1"), "");
  for (const name of ["run/checkpoint-3", ".hidden", "run/adapter"]) writeRun(join(root, name), "");
  symlinkSync(outside, join(root, "linked"));
  symlinkSync(root, join(root, "circle"));
  expect([...(await runsIn(root)).keys()]).toEqual(["run/earlier-1"]);
});

it("long logs are sampled first, then read to the end, and a second start knows them", {
  timeout: 120_000,
}, async () => {
  const root = newRoot();
  const steps = 20_000;
  writeRun(join(root, "long"), start(0, steps) + end("finished"));
  const text = Array.from({ length: steps }, (_, at) =>
    step(at + 1, { peakBytes: at === 777 ? 5e6 : 1e6 }),
  ).join("");
  writeFileSync(join(root, "long/steps.jsonl"), text);
  const store = new RunStore(root);
  const first = (await runsIn(root, store)).get("long")!;
  expect(first).toMatchObject({ isPartial: true, step: steps });
  expect(first.lossSparkline.length).toBeGreaterThan(10);
  let run = first;
  while (run.isPartial) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    run = (await runsIn(root, store)).get("long")!;
  }
  expect(run).toMatchObject({ step: steps, tokens: 100 * steps, peakBytes: 5e6 });
  await store.close();
  const again = new RunStore(root);
  expect((await runsIn(root, again)).get("long")).toEqual(run);
  await again.close();
});

it("trials of a sweep are listed under it", async () => {
  const root = newRoot();
  writeRun(join(root, "sweep/trial-1"), start(0, 3) + end("finished"));
  const trial = {
    ...{
      trial: 1,
      options: { lora_r: 4 },
      state: "finished",
      evalLoss: 0.5,
      metrics: {},
      plannedPeakBytes: 10,
    },
    ...{
      peakBytes: 9,
      adapter: "trial-1/best",
      run: "trial-1",
      step: 3,
      totalSteps: 3,
      bestStep: 3,
      elapsedMs: 9,
    },
  };
  const table = {
    ...{ version: 1, strategy: "grid", metric: { name: "evalLoss", better: "lower" }, varied: ["lora_r"] },
    ...{ trials: [trial], best: 1, reproduce: "lorafit train ...", isDone: true },
  };
  writeFileSync(join(root, "sweep/sweep.json"), JSON.stringify(table));
  const store = new RunStore(root, { keeps: false });
  const runs = await runsIn(root, store);
  const [summary] = store.sweepSummaries();
  expect(summary).toMatchObject({ name: "sweep", state: "finished", best: { trial: 1, value: 0.5 } });
  expect(summary!.trials).toMatchObject({ finished: 1, running: 0 });
  const run = runs.get("sweep/trial-1")!;
  expect(run.sweep).toEqual({ id: summary!.id, trial: 1 });
  const detail = store.sweep(summary!.id)!.detail((folder) => store.runIn(folder));
  expect(detail.table.trials[0]).toMatchObject({ runId: run.id, options: { lora_r: 4 } });
  writeFileSync(join(root, "sweep/sweep.json"), "{");
  await store.look();
  expect(store.sweepSummaries()).toHaveLength(1); // the last table that could be read
});

it("a lock that is no file hides no run", async () => {
  const root = newRoot();
  for (const name of ["folder", "pipe", "circle", "sound"]) writeRun(join(root, name), start(0, 9));
  mkdirSync(join(root, "folder/run.lock"));
  execFileSync("mkfifo", [join(root, "pipe/run.lock")]);
  symlinkSync("run.lock", join(root, "circle/run.lock"));
  mkdirSync(join(root, "sweep/run.lock"), { recursive: true });
  writeFileSync(join(root, "sweep/sweep.json"), "{}");
  const states = [...(await runsIn(root)).values()].map(({ name, state }) => [name, state]);
  expect(Object.fromEntries(states)).toEqual({
    ...{ folder: "crashed", pipe: "crashed", circle: "crashed", sound: "crashed" },
  });
});

it("a long log whose end is no line, as after a loss of power, is read to its last line, once", async () => {
  const root = newRoot();
  const steps = Array.from({ length: 3000 }, (_, at) => step(at + 1)).join("");
  mkdirSync(join(root, "run"));
  const log = join(root, "run/steps.jsonl");
  writeFileSync(log, steps + "\0".repeat(300_000));
  const store = new RunStore(root, { keeps: false });
  await store.look();
  const run = store.runIn(join(root, "run"))!;
  expect(run.isPartial).toBe(true);
  let reads = 1;
  while (!run.readOn() && reads < 100) reads++;
  expect(reads).toBeLessThan(10);
  expect(run.summary()).toMatchObject({ step: 3000, tokens: 300_000 });
  const { revision } = run;
  run.update();
  expect([run.isPartial, run.revision]).toEqual([false, revision]);
  writeFileSync(log, step(1));
  run.update();
  expect(run.summary()).toMatchObject({ step: 1, tokens: 100 });
  await store.close();
});
