import { describe, expect, it } from "vitest";
import { earlyStopReason, improves, type Objective, objectiveOf } from "./best.ts";
import type { Metrics } from "./scores.ts";

const evaluation = (loss: number, metrics: Metrics = {}, samples = 4) => ({ loss, metrics, samples });

describe("an evaluation is better", () => {
  it.each<[Objective, Metrics, Metrics]>([
    ["anls", { anls: 0.6 }, { anls: 0.5 }],
    ["cer", { cer: 0.1 }, { cer: 0.2 }],
    ["field_f1", { field_f1: 0.9 }, { field_f1: 0.1 }],
  ])("by %s in that metric's own direction, whatever the loss", (objective, better, worse) => {
    expect(improves(evaluation(9, better), evaluation(1, worse), objective)).toBe(true);
    expect(improves(evaluation(1, worse), evaluation(9, better), objective)).toBe(false);
    expect(improves(evaluation(1, better), evaluation(9, better), objective)).toBe(false);
  });

  it("by the loss where it is lower by more than the least difference", () => {
    expect(improves(evaluation(0.75), evaluation(1), "loss", 0.25)).toBe(false);
    expect(improves(evaluation(0.74), evaluation(1), "loss", 0.25)).toBe(true);
  });

  it("with more samples, because memory was short for the other", () => {
    expect(improves(evaluation(2, {}, 4), evaluation(1, {}, 3), "loss")).toBe(true);
    expect(improves(evaluation(1, {}, 3), evaluation(2, {}, 4), "loss")).toBe(false);
  });

  it("with a metric than without it, as evaluations of older runs are", () => {
    const old = { loss: 1, samples: 4 };
    expect(objectiveOf({ ...old, exactMatch: 0.5 }, "exact_match")).toBe(0.5);
    expect(objectiveOf(old, "cer")).toBeUndefined();
    expect(improves(evaluation(2, { cer: 3 }), old, "cer")).toBe(true);
    expect(improves(old, evaluation(2, { cer: 3 }), "cer")).toBe(false);
  });
});

describe("a run ends early", () => {
  const evals = (...losses: number[]) =>
    losses.map((loss, at) => ({ step: 10 * (at + 1), ...evaluation(loss) }));
  const reason = (losses: number[], patience: number, min_delta = 0) =>
    earlyStopReason(evals(...losses), { patience, min_delta }, "loss");

  it("when as many evaluations as its patience have not improved on the best, which is named", () => {
    expect(reason([3, 2, 2.5], 2)).toBeUndefined();
    expect(reason([3, 2, 2.5, 2], 2)).toBe(
      "the last 2 evaluations did not improve the evaluation loss on 2.0000 at step 20",
    );
    expect(reason([3, 2, 2.5, 1.9], 2)).toBeUndefined();
    expect(reason([3, 3], 1)).toBe(
      "the last evaluation did not improve the evaluation loss on 3.0000 at step 10",
    );
  });

  it("when what it gains is too little, also in several steps that are too little each", () => {
    expect(reason([3, 2.9, 2.8], 2, 0.25)).toMatch(/ by more than 0\.25 on 3\.0000 at step 10$/);
    expect(reason([3, 2.9, 2.7], 2, 0.25)).toBeUndefined(); // together they are enough, as in Keras
  });

  it("by a metric in its own direction", () => {
    const falling = [0.5, 0.4, 0.3].map((cer, at) => ({ step: at, ...evaluation(at, { cer, anls: cer }) }));
    expect(earlyStopReason(falling, { patience: 2, min_delta: 0 }, "cer")).toBeUndefined();
    expect(earlyStopReason(falling, { patience: 2, min_delta: 0 }, "anls")).toContain("the ANLS on 0.5000");
  });

  it("never without an evaluation, and never unless it is asked to", () => {
    expect(reason([], 1)).toBeUndefined();
    expect(earlyStopReason(evals(1, 2, 3), undefined, "loss")).toBeUndefined();
  });
});
