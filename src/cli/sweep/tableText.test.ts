import { expect, it } from "vitest";
import type { SweepTable, Trial } from "../../runs/sweepTable.ts";
import { tableCsv, tableText } from "./tableText.ts";

const trial = (number: number, more: Partial<Trial>): Trial => ({
  ...{ trial: number, options: {}, state: "finished", evalLoss: null, metrics: {}, plannedPeakBytes: null },
  ...{ peakBytes: null, adapter: null, run: `trial-${number}`, step: 0, totalSteps: 40, bestStep: null },
  ...{ plannedStepMs: null, elapsedMs: 0, ...more },
});
const TABLE: SweepTable = {
  ...{ version: 1, strategy: "grid", metric: { name: "anls", better: "higher" }, best: 2 },
  ...{ varied: ["learning_rate", "lora_targets"], reproduce: null, timesBy: null, isDone: true },
  trials: [
    trial(1, {
      options: { learning_rate: 5e-5, lora_targets: ["wqkv", "wo"] },
      evalLoss: 0.5,
      metrics: { anls: 0.5 },
    }),
    trial(2, {
      options: { learning_rate: 1e-3, lora_targets: "wo" },
      ...{
        evalLoss: 0.7,
        metrics: { anls: 0.75, cer: 0.1 },
        step: 40,
        elapsedMs: 61_000.4,
        adapter: "s/trial-2/best",
      },
      ...{ plannedPeakBytes: 2 ** 30, peakBytes: 2 ** 29 },
    }),
    trial(3, {
      options: { learning_rate: 1, lora_targets: "wo" },
      state: "failed",
      error: 'a "word",\nand more',
    }),
  ],
};

it("people see the best trial first, marked, by the metric that decides", () => {
  expect(tableText(TABLE)).toBe(
    [
      "   trial  learning_rate  lora_targets   state     eval loss  anls    steps  planned peak  peak       time",
      "*      2  0.001          wo             finished  0.7000     0.7500  40/40  1.0 GiB       512.0 MiB  1 min 1 s",
      '       1  5e-5           ["wqkv","wo"]  finished  0.5000     0.5000',
      "       3  1              wo             failed",
    ].join("\n"),
  );
});

it("spreadsheets get every number, in the order of the trials, quoted where a comma or a line end is within", () => {
  expect(tableCsv(TABLE).split("\n", 3).join("\n")).toBe(
    `trial,learning_rate,lora_targets,state,evalLoss,anls,cer,plannedPeakBytes,peakBytes,step,totalSteps,elapsedMs,adapter,error
1,0.00005,"[""wqkv"",""wo""]",finished,0.5,0.5,,,,0,40,0,,
2,0.001,wo,finished,0.7,0.75,0.1,1073741824,536870912,40,40,61000,s/trial-2/best,`,
  );
  expect(tableCsv(TABLE)).toContain(',"a ""word"",\nand more"');
});
