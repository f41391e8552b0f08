import { expect, it } from "vitest";
import type { StepRecord } from "../../train/folder/runLog.ts";
import { type RunPage, runHtml, runSummary } from "./runPage.ts";

const MIB = 2 ** 20;

const stepsOf = (losses: number[]): StepRecord[] =>
  losses.map((loss, index) => ({
    step: index + 1,
    loss,
    gradNorm: 2 - index / losses.length,
    lr: 1e-3,
    tokens: 100,
    tokensPerSecond: 50,
    hostPeakBytes: 0,
    peakBytes: (40 + index) * MIB,
    stepMs: 2000,
    dataWaitRatio: 0.25,
    epoch: 0,
  }));

const pageOf = (page: Partial<RunPage>): string =>
  runHtml({
    folder: "runs/7",
    options: { model: "tiny", lora_r: 8, max_grad_norm: 1, learning_rate: 1e-3, lr_schedule: "cosine" },
    steps: stepsOf([4, 3, 2]),
    evals: [],
    scores: [],
    answers: [],
    ...page,
  });

it("says in its headline whether the loss fell, and the memory against the budget", () => {
  const options = { memory: 2048 * MIB };
  expect(pageOf({ options })).toContain(
    "<h1>The loss fell from 4.00 to 2.00 in 3 steps, with at most 42.0 MiB of the 2.0 GiB allowed.</h1>",
  );
  expect(pageOf({ steps: stepsOf([2]) })).toContain("The loss stayed at 2.00 in 1 step,");
  expect(pageOf({ steps: stepsOf([2, 4]) })).toContain("The loss rose from 2.00 to 4.00 in 2 steps");
});

it("puts a table under every chart", () => {
  const html = pageOf({});
  const figures = html.split("<figure>").slice(1);
  expect(figures).toHaveLength(5);
  for (const figure of figures) expect(figure).toMatch(/<svg[\s\S]*<\/svg>[\s\S]*<table>/);
});

it("leaves memory out where nothing counted it", () => {
  const steps = stepsOf([4, 3]).map((step) => ({ ...step, peakBytes: 0 }));
  expect(pageOf({ steps }).split("<figure>")).toHaveLength(5);
});

it("is drawn of a run of any length", () => {
  const html = pageOf({ steps: stepsOf(Array.from({ length: 200_000 }, (_, step) => 4 - step / 100_000)) });
  expect(html).toContain("The loss fell from 4.00 to 2.00 in 200,000 steps");
  expect(html.length).toBeLessThan(500_000);
});

it("needs nothing but itself", () => {
  const png = new Uint8Array([1, 2, 3]);
  const html = pageOf({ preview: { name: "page.png", png }, scores: [{ name: "before", loss: 4 }] });
  expect(html).toContain('src="data:image/png;base64,AQID"');
  expect(html.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:|<script|<link/);
});

it("shows no number that is none, and names as text", () => {
  const html = pageOf({
    options: {
      model: "<b>",
      lora_r: 8,
      dtype: "fp32",
      device: "cpu",
      lr_schedule: "cosine",
      learning_rate: 1,
    },
    steps: stepsOf([4, Number.NaN, 3]),
    evals: [{ step: 3, loss: 3, samples: 1, labelTokens: 4, exactMatch: 0.5 }],
    scores: [{ name: "after", loss: 2, exactMatch: 0.5 }],
  });
  expect(html).not.toContain("undefined");
  expect(html).not.toContain("<b>");
  expect(html).toContain("<td>50.0%</td>");
});

it("compares means of the first and the last tenth of the steps", () => {
  const losses = Array.from({ length: 40 }, (_, step) => (step < 4 ? 8 : step < 36 ? 5 : 1));
  expect(runSummary(stepsOf(losses))).toMatchObject({
    firstLoss: 8,
    lastLoss: 1,
    meanSteps: 4,
    steps: 40,
    tokens: 4000,
  });
});

it("shows the course of the evaluations, and planned memory beside measured under the limit", () => {
  const evals = [1, 2, 3].map((step) => ({
    step,
    loss: 4 - step,
    samples: 1,
    labelTokens: 4,
    exactMatch: step / 4,
    anls: 0.5,
  }));
  const steps = stepsOf([4, 3, 2]).map((step) => ({ ...step, plannedPeakBytes: step.peakBytes }));
  const html = pageOf({ evals, steps, options: { memory: 64 * MIB } });
  expect(html).toContain("Answers of the evaluations");
  expect(html).toMatch(
    /<th scope="col">exact answers<\/th><th scope="col">ANLS<\/th>[\s\S]*<td>0.75<\/td><td>0.5<\/td>/,
  );
  expect(html).toContain('<th scope="col">measured</th><th scope="col">planned</th>');
  expect(html).toContain("65.63% of the limit");
});

it("has the evaluations in the table of the loss, however many there are", () => {
  const steps = stepsOf(Array.from({ length: 400 }, (_, at) => 4 - at / 200));
  const evals = Array.from({ length: 30 }, (_, at) => ({
    ...{ step: 13 * (at + 1), loss: 5 + at, samples: 1, labelTokens: 4, exactMatch: 0 },
  }));
  const [, table] = /Natural logarithm[\s\S]*?(<table>[\s\S]*?<\/table>)/.exec(pageOf({ steps, evals }))!;
  const column = [...table!.matchAll(/<td>([\d.]*)<\/td><\/tr>/g)].map(([, value]) => value);
  expect(column.filter(Boolean)).toHaveLength(7);
  expect(column.length).toBeLessThanOrEqual(9);
  expect(column).toContain("5");
  expect(column).toContain("34");
});

it("says why a run ended early", () => {
  const evals = [2, 3, 3.5].map((loss, at) => ({
    ...{ step: at + 1, loss, samples: 1, labelTokens: 4, exactMatch: 0, metrics: { cer: 3 - at } },
  }));
  const early_stop = { patience: 2, min_delta: 0 };
  expect(pageOf({ evals, options: { early_stop } })).toContain(
    "The run ended early: the last 2 evaluations did not improve the evaluation loss on 2.0000 at step 1.",
  );
  expect(pageOf({ evals, options: { early_stop, metric: "cer" } })).not.toContain("ended early");
  expect(pageOf({ evals, options: { early_stop: 2 } })).not.toContain("ended early"); // no run writes that
});

it("shows answers before and after beside their picture, with what differs marked", () => {
  const answer = {
    images: ["page.png"],
    question: "Total?",
    expected: "12.40 <EUR>",
    given: [
      { name: "before", answer: "no idea" },
      { name: "after", answer: "12.60 <EUR>" },
    ],
    pictures: [{ name: "page.png", uri: "data:image/jpeg;base64,AQID" }],
  };
  const html = pageOf({ answers: [answer] });
  expect(html).toContain('<img alt="page.png" src="data:image/jpeg;base64,AQID">');
  expect(html).toContain("<dt>expected</dt><dd>12.40 &lt;EUR&gt;</dd>");
  expect(html).toContain("<dt>before</dt><dd><mark>no idea</mark></dd>");
  expect(html).toContain("<dt>after</dt><dd><mark>12.60</mark> &lt;EUR&gt;</dd>");
});

it("shows the memory over one step, measured and planned, with a table of the phases", () => {
  const profile = (workingSet: number[]) => ({
    phases: [
      { name: "forward", moments: 2 },
      { name: "backward", moments: 1 },
    ],
    device: { weights: [10 * MIB, 10 * MIB, 10 * MIB], workingSet },
    host: {},
  });
  const html = pageOf({
    memory: {
      ...{ version: 1, step: 4, tokens: 1234, samples: [], device: "cpu", besideBytes: 0 },
      limits: { deviceBytes: 64 * MIB },
      measured: profile([1 * MIB, 5 * MIB, 20 * MIB]),
      planned: profile([1 * MIB, 6 * MIB, 21 * MIB]),
    },
  });
  expect(html).toContain("Memory of cpu over one step, MiB");
  expect(html).toContain("step 4 (1,234 tokens)");
  expect(html).toMatch(
    /<td>backward<\/td><td>30\.0 MiB<\/td><td>31\.0 MiB<\/td><td>0 B<\/td><td>the layer being/,
  );
  expect(html).toContain("limit 64.0 MiB");
});
