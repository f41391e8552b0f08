import { beforeEach, describe, expect, it } from "vitest";
import { CATEGORIES, type Category } from "../../torch/device.ts";
import type { StepPeaks } from "../../train/facts/peaks.ts";
import type { StepRecord } from "../../train/folder/runLog.ts";
import { recordOf } from "../../train/loop/peakWatch.ts";
import { type TrainOptions, trainOptions } from "../../train/options/options.ts";
import { Output } from "../output/output.ts";
import { TrainReport } from "./trainReport.ts";

const given = { model: "4khd", data: "data.txt", output: "runs/7", hd_num: 16 };
const options = { ...trainOptions(given), memory: 2 ** 31 };

let [stdout, stderr] = ["", ""];
beforeEach(() => {
  [stdout, stderr] = ["", ""];
});

function reportTo({
  json = false,
  terminal = true,
  stepsBefore = [] as readonly StepRecord[],
  with: changes = {} as Partial<TrainOptions>,
  columns = 200,
} = {}): TrainReport {
  const output = new Output({
    json,
    stdout: { write: (text) => (stdout += text), isTTY: terminal },
    stderr: { write: (text) => (stderr += text), isTTY: terminal, columns },
    environment: {},
  });
  const report = new TrainReport(output);
  const step = stepsBefore.at(-1)?.step ?? 0;
  report.take({
    fact: "start",
    options: { ...options, ...changes } as TrainOptions,
    step,
    totalSteps: 80,
    samples: 12544,
    stepsBefore,
  });
  return report;
}

/** Peaks of a step that was not planned. */
const categories = Object.fromEntries(CATEGORIES.map((name) => [name, 0])) as Record<Category, number>;
const pool = { bytes: 2 ** 30, categories };
const peaks: StepPeaks = { measured: { device: pool, host: pool }, isExact: false };

const reservedPeaks: StepPeaks = {
  measured: { device: pool, host: { bytes: 0, categories }, reservedBytes: 1.5 * 2 ** 30 },
  planned: {
    device: { peakBytes: 2 ** 30, categories },
    host: { peakBytes: 0, categories },
    reservedBytes: 1.75 * 2 ** 30,
  },
  isExact: true,
};

function stepRecord(step: number, changes: Partial<StepRecord> = {}): StepRecord {
  const rates = { lr: 3.1e-5, tokensPerSecond: 1912, dataWaitRatio: 0.03, stepMs: 8600 };
  return {
    step,
    loss: 0.412,
    gradNorm: 1.5,
    tokens: 16443,
    peakBytes: 2 ** 30,
    hostPeakBytes: 0,
    epoch: 0,
    ...rates,
    ...changes,
  };
}

describe("a run on a terminal", () => {
  it("begins with model, samples and course", () => {
    reportTo();
    expect(stderr).toMatch(/^4khd, LoRA r 16, .*; 12,544 samples, 80 steps, into runs\/7\n$/);
  });

  it("has one line that lives: step, time left and time of a step first, and more on a wider terminal", () => {
    const lineOn = (columns: number): string | undefined => {
      stderr = "";
      reportTo({ columns }).take({ fact: "step", record: stepRecord(43), totalSteps: 80, peaks });
      return stderr.split("\r")[1]?.replace("\x1b[K", "").trimEnd();
    };
    expect(lineOn(200)).toBe(
      "step 43/80  5 min 18 s left  8.6 s/step  loss 0.412  ▁  1.0/2.0 GiB  ████▌      1,912 tok/s  lr 3.1e-5  data 3%",
    );
    expect(lineOn(80)).toBe("step 43/80  5 min 18 s left  8.6 s/step  loss 0.412  1.0/2.0 GiB  1,912 tok/s");
    expect(lineOn(40)).toBe("step 43/80  5 min 18 s left  8.6 s/step");
    expect(stdout).toBe("");
  });

  it("shows the phase of a step without losing the time left on 80 columns", () => {
    const report = reportTo({ columns: 80 });
    report.take({ fact: "step", record: stepRecord(43), totalSteps: 80, peaks });
    report.take({
      fact: "phase",
      step: 44,
      microBatch: 3,
      phase: { phase: "forward", done: 12, total: 32 },
    });
    const line = stderr.split("\r").at(-1)?.replace("\x1b[K", "") ?? "";
    expect(line).toContain("step 44 3/8 forward 12/32  5 min 18 s left  8.6 s/step");
    expect(line.length).toBeLessThan(80);
  });

  it("keeps a line for each evaluation and checkpoint", () => {
    const report = reportTo();
    const record = { step: 20, loss: 0.5, samples: 4, labelTokens: 90, exactMatch: 0.25, anls: 0.5 };
    report.take({ fact: "eval", record, best: true, losses: [], answers: [] });
    report.take({ fact: "checkpoint", step: 20, folder: "runs/7/checkpoint-20" });
    expect(stderr).toContain("step 20: eval loss 0.5000, exact match 0.250, ANLS 0.500 (best so far)\n");
    expect(stderr).toContain("saved runs/7/checkpoint-20\n");
  });

  it("ends with where the adapter is, or with how to go on", () => {
    const report = reportTo();
    for (const [step, loss] of [
      [1, 2],
      [2, 0.5],
    ] as const)
      report.take({ fact: "step", record: stepRecord(step, { loss }), totalSteps: 2, peaks });
    report.end({ ended: "finished", step: 2, adapter: "runs/7/adapter" }, "runs/7");
    expect(stdout).toBe("2 steps done, loss 2.0000 to 0.5000. The adapter is in runs/7/adapter\n");
    expect(stderr).toContain(
      "Evaluate it:  npx lorafit eval --model 4khd --adapter runs/7/adapter --data data.txt --hd-num 16 --max-length 4096 --answers\n",
    );
    report.end(
      { ended: "finished", step: 2, adapter: "a", reason: "early_stop", message: "no gain" },
      "runs/7",
    );
    expect(stderr).toContain("ended early: no gain\n");
    report.end({ ended: "interrupted", step: 43, checkpoint: "runs/7/checkpoint-43" }, "runs/7");
    expect(stderr).toContain("stopped at step 43. Continue with:  npx lorafit train --resume runs/7\n");
    report.end({ ended: "interrupted", step: 43, checkpoint: "c", reason: "stop_at_step" }, "runs/7");
    expect(stderr).toContain("stopped at step 43, as --stop-at-step says. Continue with:  npx lorafit train");
    report.end({ ended: "interrupted", step: 43, checkpoint: "my runs/7/checkpoint-43" }, "my runs/7");
    expect(stderr).toContain("train --resume 'my runs/7'\n");
  });
});

it("the ways on have model and samples as the run had them", () => {
  const changes = {
    base: "nf4",
    eval_data: ["my eval.txt"],
    skip_bad: true,
    image_compat: "official",
  } as const;
  const report = reportTo({ with: { ...changes, eval_data: [...changes.eval_data] } });
  report.end({ ended: "finished", step: 2, adapter: "runs/7/adapter" }, "runs/7");
  const seen = "--hd-num 16 --image-compat official";
  expect(stderr).toContain(
    `eval --model 4khd --adapter runs/7/adapter --base nf4 --data 'my eval.txt' ${seen} --max-length 4096 --skip-bad --answers\n`,
  );
  expect(stderr).toContain(`chat --model 4khd --adapter runs/7/adapter --base nf4 ${seen}\n`);
});

it("the way to evaluate a run that has set samples aside evaluates these", () => {
  const report = reportTo({ with: { val_size: 0.05, seed: 7 } });
  report.end({ ended: "finished", step: 2, adapter: "runs/7/adapter" }, "runs/7");
  expect(stderr).toContain(
    "--data data.txt --hd-num 16 --max-length 4096 --val-size 0.05 --seed 7 --answers\n",
  );
});

it("a run of one step has one loss, and no time left", () => {
  const report = reportTo();
  report.take({ fact: "step", record: stepRecord(1, { loss: 2 }), totalSteps: 1, peaks });
  report.end({ ended: "finished", step: 1, adapter: "runs/7/adapter" }, "runs/7");
  expect(stdout).toBe("1 step done, loss 2.0000. The adapter is in runs/7/adapter\n");
  expect(stderr).not.toContain(" left");
});

describe("a resumed run", () => {
  const stepsBefore = [stepRecord(1, { loss: 3 }), stepRecord(2, { loss: 2.5 })];
  const result = { ended: "finished", step: 4, adapter: "runs/7/adapter" } as const;

  it("ends with steps and loss of the whole run, and of this part of it", () => {
    const report = reportTo({ stepsBefore });
    for (const [step, loss] of [
      [3, 2],
      [4, 0.5],
    ] as const)
      report.take({ fact: "step", record: stepRecord(step, { loss }), totalSteps: 4, peaks: reservedPeaks });
    report.end(result, "runs/7");
    expect(stdout).toBe(
      "4 steps done, loss 3.0000 to 0.5000; of them 2 in this part of the run, loss 2.0000 to 0.5000. The adapter is in runs/7/adapter\n",
    );
    expect(stderr).toContain("peak of this part of the run: planned 1.0 GiB, measured 1.0 GiB");
  });

  it("that had nothing left to do says so", () => {
    reportTo({ stepsBefore }).end({ ...result, step: 2 }, "runs/7");
    expect(stdout).toBe(
      "2 steps done, loss 3.0000 to 2.5000, all of them before. The adapter is in runs/7/adapter\n",
    );
  });
});

it("says of a rate of 0 in the first step that the warm-up begins", () => {
  const report = reportTo();
  report.take({ fact: "step", record: stepRecord(1, { lr: 0 }), totalSteps: 80, peaks });
  report.take({ fact: "step", record: stepRecord(2), totalSteps: 80, peaks });
  expect(stderr).toContain("lr 0 (warm-up begins)  data");
  expect(stderr).toContain("lr 3.1e-5  data");
});

it("for scripts prints one object a step with exactly the fields that are promised", () => {
  const report = reportTo({ json: true, terminal: false });
  report.take({ fact: "step", record: stepRecord(1), totalSteps: 80, peaks });
  expect(
    stdout
      .split("\n")
      .filter(Boolean)
      .map((line) => Object.keys(JSON.parse(line))),
  ).toEqual([["step", "loss", "gradNorm", "lr", "tokens", "tokensPerSecond", "peakBytes", "hostPeakBytes"]]);
});

it("of a card tells the reserved bytes as well, planned beside measured, in lines and in objects", () => {
  reportTo().take({ fact: "step", record: stepRecord(1), totalSteps: 80, peaks: reservedPeaks });
  expect(stderr).toContain(
    "step 1: planned 1.0 GiB, measured 1.0 GiB; reserved: planned 1.8 GiB, measured 1.5 GiB\n",
  );
  const record = stepRecord(1, recordOf(reservedPeaks, true));
  stdout = "";
  reportTo({ json: true, terminal: false }).take({
    fact: "step",
    record,
    totalSteps: 80,
    peaks: reservedPeaks,
  });
  expect(JSON.parse(stdout)).toMatchObject({
    plannedPeakBytes: 2 ** 30,
    peakBytes: 2 ** 30,
    plannedReservedPeakBytes: 1.75 * 2 ** 30,
    reservedPeakBytes: 1.5 * 2 ** 30,
  });
});
