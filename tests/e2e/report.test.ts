import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { lorafit, records } from "./lorafit.ts";

const STEP = {
  step: 1,
  loss: 4,
  gradNorm: 1,
  lr: 1e-3,
  tokens: 100,
  tokensPerSecond: 50,
  peakBytes: 2 ** 20,
  stepMs: 2000,
  dataWaitRatio: 0,
  epoch: 0,
};

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "report-"));
  const steps = [STEP, { ...STEP, step: 2, loss: 3 }];
  writeFileSync(join(folder, "steps.jsonl"), steps.map((step) => `${JSON.stringify(step)}\n`).join(""));
  writeFileSync(join(folder, "train.yaml"), "model: tiny\nlora_r: 8\nlearning_rate: 0.001\n");
});
afterAll(() => rmSync(folder, { recursive: true }));

it("report writes the page of a run, and its numbers with --json", () => {
  writeFileSync(
    join(folder, "before.jsonl"),
    '{"index":0,"loss":5,"labelTokens":3}\n{"loss":5,"exactMatch":0.25,"idleCard":"told"}\n',
  );
  const out = join(folder, "page.html");
  const [record] = records(
    lorafit(["report", folder, "--out", out, "--evals", join(folder, "before.jsonl"), "--json"]),
  );
  expect(record).toMatchObject({ report: out, steps: 2, firstLoss: 4, lastLoss: 3, peakBytes: 2 ** 20 });
  const html = readFileSync(out, "utf8");
  expect(html).toContain("The loss fell from 4.00 to 3.00 in 2 steps");
  expect(html).toContain("<td>before</td><td>5.000</td><td>25.0%</td>");
});

it("report refuses a folder without steps, and scores that are none", () => {
  const empty = join(folder, "empty");
  mkdirSync(empty);
  expect(lorafit(["report", empty])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("holds no step of a run"),
  });
  const { code, stderr } = lorafit(["report", folder, "--evals", join(folder, "steps.jsonl")]);
  expect(code).toBe(1);
  expect(stderr).toContain("this does not end as the output of an evaluation");
});
