import { expect, it } from "vitest";
import type { RunDetail, RunSummary } from "../../../src/server/ui/api.ts";
import { noSteps } from "../lib/steps.ts";
import { type RunHistory, withLive } from "./runHistory.ts";

const summary = { id: "a", state: "running", step: 1 } as RunSummary;
const evaluation = { step: 1, loss: 2, samples: 1, labelTokens: 1, exactMatch: 0 };
const before: RunHistory = {
  ...{
    detail: { checkpoints: [] } as unknown as RunDetail,
    summary,
    steps: noSteps(),
    answers: [],
    events: [],
  },
  ...{ evals: [evaluation], cursor: "1...", turn: 0 },
};

it("appends what a run has logged, and keeps the place", () => {
  const after = withLive(before, { id: "a", cursor: "2...", evals: [{ ...evaluation, step: 2 }] });
  expect(after).toMatchObject({ cursor: "2...", turn: 1, summary });
  expect(after.evals.map(({ step }) => step)).toEqual([1, 2]);
});

it("loads the detail again only if more than steps have come", () => {
  const steps = { ...noSteps(), step: [1], loss: [3] };
  const after = withLive(before, { id: "a", cursor: "2...", steps, summary: { ...summary, step: 1 } });
  expect(after.turn).toBe(0);
  expect(after.steps.loss).toEqual([3]);
  expect(withLive(before, { id: "a", cursor: "3", summary: { ...summary, state: "finished" } }).turn).toBe(1);
});

it("forgets its history when the run began anew", () => {
  const after = withLive(before, {
    id: "a",
    cursor: "9...",
    reset: true,
    evals: [{ ...evaluation, step: 7 }],
  });
  expect(after.evals.map(({ step }) => step)).toEqual([7]);
});
