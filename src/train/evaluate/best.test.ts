import { describe, expect, it } from "vitest";
import { improves, type Objective, objectiveOf } from "./best.ts";
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
