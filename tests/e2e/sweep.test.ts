import { existsSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, it } from "vitest";
import { readCommand } from "../../src/cli/args/readCommand.ts";
import type { Trial } from "../../src/runs/sweepTable.ts";
import { hashesBelow, runWith } from "../faults/trainRun.ts";
import { lcg } from "../helpers/randomModel.ts";
import { lorafit, type Run } from "./lorafit.ts";
import { makeSweepPlace, shown, startSweep, trialsIn } from "./sweepRun.ts";

const SLOW_MACHINE = 240_000;

const { base, argsOf, output } = await makeSweepPlace();
const random = lcg(Date.now());

/** Returns everything of a table that must not depend on when the sweep was stopped. */
function resultsOf(trials: readonly Trial[]): object[] {
  return trials.map(({ elapsedMs: _, peakBytes: __, run: ___, adapter, ...rest }) => ({
    ...rest,
    adapter: adapter && hashesBelow(adapter),
  }));
}

/** Returns the steps that a trial's run has logged. */
function stepsOf({ run }: Trial): number[] {
  const lines = readFileSync(join(run, "steps.jsonl"), "utf8").split("\n").filter(Boolean);
  return lines.map((line) => JSON.parse(line).step);
}

describe("a grid with a trial that is too large and one that fails", () => {
  const grid = { lora_r: [2, 3, 900], learning_rate: [1e-2], memory: "6MiB" };
  const args = argsOf("grid", grid);
  let first: Run;
  beforeAll(() => {
    first = lorafit(args);
  }, SLOW_MACHINE);

  it("prints each trial as it ends, and has the same in its table", () => {
    expect(first.code, first.stderr).toBe(0);
    const printed = trialsIn(first.stdout);
    const trials = trialsIn(lorafit(["sweep", "show", output("grid"), "--json"]).stdout);
    expect(printed.toSorted((one, other) => one.trial - other.trial)).toEqual(trials);
    expect(trials).toMatchObject([
      { trial: 1, options: { lora_r: 2 }, state: "finished", step: 4, totalSteps: 4, bestStep: 4 },
      { trial: 2, options: { lora_r: 3 }, state: "finished", step: 4, totalSteps: 4, bestStep: 4 },
      { trial: 3, options: { lora_r: 900 }, state: "too-large", step: 0, evalLoss: null, adapter: null },
    ]);
    for (const { evalLoss, plannedPeakBytes, peakBytes, adapter } of trials.slice(0, 2)) {
      expect(evalLoss).toBeGreaterThan(0);
      expect(peakBytes).toBeGreaterThan(0);
      expect(peakBytes).toBeLessThanOrEqual(plannedPeakBytes!);
      expect(existsSync(join(adapter!, "adapter_model.safetensors"))).toBe(true);
    }
  });

  it("says what would make the large one fit, and starts no run for it", async () => {
    const [, , { plannedPeakBytes, waysOut, run }] = (await shown(output("grid"))) as [Trial, Trial, Trial];
    expect(plannedPeakBytes).toBeGreaterThan(6 * 2 ** 20);
    expect(waysOut).toContainEqual(expect.stringMatching(/^--memory \d+MiB$/));
    expect(waysOut).toContainEqual(expect.stringMatching(/^--lora-r \d+$/));
    expect(first.stderr).toContain("trial 3 is too large and will not start");
    expect(existsSync(run)).toBe(false);
  });

  it("estimates its time, by plan and by the first trial", () => {
    expect(first.stderr).toMatch(/3 trials \(grid\) over lora_r, on cpu; about .+ by plan/);
    expect(first.stderr).toMatch(
      /its 4 steps took .+ times its plan without evaluations; about .+ left in all/,
    );
  });

  it("links the best adapter, and its line trains the same bytes", { timeout: SLOW_MACHINE }, async () => {
    const trials = await shown(output("grid"));
    const losses = trials.map(({ evalLoss }) => evalLoss ?? Number.POSITIVE_INFINITY);
    const best = trials[losses.indexOf(Math.min(...losses))]!;
    expect(readlinkSync(join(output("grid"), "best"))).toBe(`trial-${best.trial}/best`);
    const [, line] = /Train it again: {2}(.+)/.exec(first.stderr)!;
    const words = line!.split(" train ")[1]!.split(" ");
    const { options } = readCommand("train", [...words.slice(0, -1), output("again")], 80) as never;
    expect(await runWith(options)).toMatchObject({ result: { ended: "finished" } });
    expect(hashesBelow(join(output("again"), "best"))).toEqual(hashesBelow(join(output("grid"), "best")));
  });

  it("shows its table as text and as CSV", () => {
    const text = lorafit(["sweep", "show", output("grid")]);
    expect(text.stdout).toMatch(
      /^ *trial +lora_r +state +eval loss +exact match +steps +planned peak +peak +time\n\* +\d/,
    );
    expect(text.stderr).toContain(`The best adapter is that of trial`);
    const { stdout } = lorafit(["sweep", "show", output("grid"), "--csv"]);
    const [head, ...rows] = stdout.trimEnd().split("\n");
    expect(head).toMatch(/^trial,lora_r,state,evalLoss,.*plannedPeakBytes,peakBytes,step,totalSteps,/);
    expect(rows.map((row) => row.split(",").slice(0, 3).join())).toEqual([
      "1,2,finished",
      "2,3,finished",
      "3,900,too-large",
    ]);
  });

  it("does nothing twice, and says what differs in another sweep", { timeout: SLOW_MACHINE }, async () => {
    const before = await shown(output("grid"));
    const again = lorafit(args);
    expect(again).toMatchObject({ code: 0, stdout: "" });
    expect(await shown(output("grid"))).toEqual(before);
    const other = lorafit([...args, "--lora-r", "2,4"]);
    expect(other.code).toBe(1);
    expect(other.stderr).toContain("lora_r was [2,3,900], is [2,4]");
  });

  it("loses nothing to kill -9 at random moments", { timeout: SLOW_MACHINE }, async () => {
    const killed = argsOf("killed", grid);
    for (let kill = 0; kill < 3; kill++) {
      const { process: sweep, ended } = startSweep(killed);
      await Promise.race([sleep(random() * 3000), ended]);
      sweep.kill("SIGKILL");
      await ended;
    }
    const { code, stderr } = lorafit(killed);
    expect(code, stderr).toBe(0);
    const trials = await shown(output("killed"));
    expect(resultsOf(trials)).toEqual(resultsOf(await shown(output("grid"))));
    for (const trial of trials.slice(0, 2)) expect(stepsOf(trial)).toEqual([1, 2, 3, 4]);
    expect(hashesBelow(join(output("killed"), "best"))).toEqual(hashesBelow(join(output("grid"), "best")));
  });
});

it("a trial that fails takes no other with it, and --retry runs it again", {
  timeout: SLOW_MACHINE,
}, async () => {
  const args = argsOf("failing", { lora_r: 2, learning_rate: [1e30, 1e-2] });
  const { code, stderr } = lorafit(args);
  expect(code, stderr).toBe(0);
  const [failed, finished] = await shown(output("failing"));
  expect(failed).toMatchObject({ state: "failed", error: expect.stringContaining("not a finite number") });
  expect(finished).toMatchObject({ state: "finished" });
  expect(stderr).toContain("1 trial failed; the same command with --retry runs them again");
  const log = readFileSync(join(output("failing"), "trial-1.log"), "utf8");
  expect(log).toContain("error: ");
  lorafit([...args, "--retry"]);
  expect(readFileSync(join(output("failing"), "trial-1.log"), "utf8").length).toBeGreaterThan(log.length);
});

it("a trial that can't be planned fails, also when --retry plans it again", {
  timeout: SLOW_MACHINE,
}, async () => {
  const args = argsOf("unplanned", { lora_r: 2, lora_targets: [["wqkv"], ["no_such_linear"]] });
  for (const more of [[], ["--retry"]]) {
    const { code, stderr } = lorafit([...args, ...more]);
    expect(code, stderr).toBe(0);
    const states = (await shown(output("unplanned"))).map(({ state }) => state);
    expect(states).toEqual(["finished", "failed"]);
  }
});

it("halving ends with the adapter that the same run has alone", { timeout: SLOW_MACHINE }, async () => {
  const varied = { learning_rate: [1e-4, 1e-3, 1e-2], lora_r: 2, lora_dropout: 0.1 };
  const halving = { strategy: "halving", min_steps: 2 };
  const { code, stderr } = lorafit([
    ...argsOf("halving", { ...varied, ...halving }),
    "--devices",
    "cpu",
    "cpu",
  ]);
  expect(code, stderr).toBe(0);
  expect(stderr).toContain("rounds: 3 up to step 2, 1 up to step 4");
  const trials = await shown(output("halving"));
  expect(trials.map(({ step, state }) => [step, state])).toEqual([
    [2, "finished"],
    [2, "finished"],
    [4, "finished"],
  ]);
  const alone = { ...base, ...varied, learning_rate: 1e-2, output: output("alone") };
  expect(await runWith(alone as never)).toMatchObject({ result: { ended: "finished" } });
  expect(hashesBelow(join(trials[2]!.run, "adapter"))).toEqual(hashesBelow(join(output("alone"), "adapter")));
  expect(hashesBelow(join(output("halving"), "best"))).toEqual(hashesBelow(join(output("alone"), "best")));
});

it("Ctrl-C saves, and the same command continues", { timeout: SLOW_MACHINE }, async () => {
  const args = argsOf("stopped", { lora_r: 2, learning_rate: [1e-3, 1e-2], max_steps: 60 });
  const { process: sweep, ended } = startSweep(args);
  const steps = join(output("stopped"), "trial-1", "steps.jsonl");
  while (!existsSync(steps) || readFileSync(steps, "utf8") === "") await sleep(20);
  sweep.kill("SIGINT");
  const { code, stderr } = await ended;
  expect(code, stderr).toBe(130);
  expect(stderr).toContain("stopped. The same command continues the sweep.");
  const before = await shown(output("stopped"));
  expect(before.map(({ state }) => state)).not.toContain("running");
  expect(before[0]!.step).toBeGreaterThan(0);
  expect(lorafit(args).code).toBe(0);
  for (const trial of await shown(output("stopped"))) {
    expect(trial.state).toBe("finished");
    expect(stepsOf(trial)).toEqual(Array.from({ length: 60 }, (_, index) => index + 1));
  }
});

it("a folder with other files, or with another's table, is left alone", () => {
  const other = join(output("others"), "..");
  const { code, stderr } = lorafit(argsOf(".", { lora_r: [2, 4] }));
  expect({ code, stderr }).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("is not a sweep's folder"),
  });
  writeFileSync(join(other, "sweep.json"), '{"version":1,"trials":[{"trial":1,"run":"../../etc"}]}');
  expect(lorafit(["sweep", "show", other])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("is not the table of a sweep"),
  });
});
