import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { golden } from "../helpers/shared.ts";
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
    '{"index":0,"loss":5,"labelTokens":3}\n{"loss":5,"exactMatch":0.25,"metrics":{"exact_match":0.25,"cer":0.125},"idleCard":"told"}\n',
  );
  const out = join(folder, "page.html");
  const [record] = records(
    lorafit(["report", folder, "--out", out, "--evals", join(folder, "before.jsonl"), "--json"]),
  );
  expect(record).toMatchObject({ report: out, steps: 2, firstLoss: 4, lastLoss: 3, peakBytes: 2 ** 20 });
  const html = readFileSync(out, "utf8");
  expect(html).toContain("The loss fell from 4.00 to 3.00 in 2 steps");
  expect(html).toContain("<td>before</td><td>5.000</td><td>25.0%</td><td></td><td>0.125</td>");
});

it("report shows answers of the compared evaluations beside the sample's picture", () => {
  const picture = golden("generate/g2_img_1x1.img0.png");
  const evaluation = (answer: string): string => {
    const answers = [{ question: "Total?", expected: "12.40", answer, exactMatch: 0, anls: 0 }];
    const row = { index: 0, loss: 5, labelTokens: 3, images: [picture, "gone.png"], answers };
    return `not JSON\n${JSON.stringify(row)}\n{"loss":5,"exactMatch":0,"anls":0.1}\n`;
  };
  for (const [name, answer] of [
    ["old", "no <idea>"],
    ["new", "12.60"],
  ] as const)
    writeFileSync(join(folder, `${name}.jsonl`), evaluation(answer));
  const out = join(folder, "answers.html");
  const evals = ["old", "new"].map((name) => join(folder, `${name}.jsonl`));
  expect(lorafit(["report", folder, "--out", out, "--evals", ...evals])).toMatchObject({ code: 0 });
  const html = readFileSync(out, "utf8");
  expect(html).toMatch(/<img alt="[^"]*img0.png" src="data:image\/jpeg;base64,[^"]+">/);
  expect(html).toContain("gone.png (not there)");
  expect(html).toContain(
    "<dt>old</dt><dd><mark>no &lt;idea&gt;</mark></dd><dt>new</dt><dd><mark>12.60</mark></dd>",
  );
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
  expect(stderr).toContain("is not the output of an evaluation");
});

const folderOf = (files: Record<string, string>): string => {
  const made = mkdtempSync(join(folder, "case-"));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(made, name), text);
  return made;
};

it.each<[string, Record<string, string>, string]>([
  [
    "a configuration that is not YAML",
    { "steps.jsonl": `${JSON.stringify(STEP)}\n`, "train.yaml": "model: [" },
    "train.yaml:1:9: ",
  ],
  [
    "a configuration that is a list",
    { "steps.jsonl": `${JSON.stringify(STEP)}\n`, "train.yaml": "- a" },
    "train.yaml is not a list of options",
  ],
  [
    "no configuration",
    { "steps.jsonl": `${JSON.stringify(STEP)}\n` },
    "train.yaml cannot be read: there is no such file.",
  ],
  [
    "a step without a loss",
    { "steps.jsonl": `${JSON.stringify(STEP)}\n{"step":2}\n` },
    'steps.jsonl: record 2 has no number "loss".',
  ],
  ["a step that is not a record", { "steps.jsonl": "null\n" }, 'steps.jsonl: record 1 has no number "step".'],
  [
    "a loss that is text",
    { "steps.jsonl": `${JSON.stringify({ ...STEP, loss: "low" })}\n` },
    'record 1 has no number "loss".',
  ],
  [
    "an evaluation without a loss",
    { "steps.jsonl": `${JSON.stringify(STEP)}\n`, "evals.jsonl": '{"step":1}\n' },
    'evals.jsonl: record 1 has no number "loss".',
  ],
])("report tells of %s", (_, files, message) => {
  const { code, stderr } = lorafit(["report", folderOf(files)]);
  expect(code).toBeGreaterThan(0);
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/^ {4}at |defect of lorafit/m);
});

it.each(["{}", "model: tiny\n"])(
  "report shows a run whose options are %j, and losses that were not finite, without NaN or undefined",
  (options) => {
    const steps = [STEP, { ...STEP, step: 2, loss: null, gradNorm: null }, { ...STEP, step: 3, loss: null }];
    const run = folderOf({
      "steps.jsonl": steps.map((step) => `${JSON.stringify(step)}\n`).join(""),
      "train.yaml": options,
    });
    expect(lorafit(["report", run]).code).toBe(0);
    const html = readFileSync(join(run, "report.html"), "utf8");
    expect(html).not.toMatch(/NaN|undefined|null|Infinity/);
    expect(html).toContain("The loss was not a finite number at the end in 3 steps");
  },
);
