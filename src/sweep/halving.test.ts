import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bestOf, rungsOf, singleRung, stepsAt } from "./halving.ts";

const course = (trials: number, totalSteps: number, more: { factor?: number; leastSteps?: number } = {}) =>
  rungsOf(trials, { factor: 2, leastSteps: 1, ...more, totalSteps }).map((rung) => [
    rung.trials,
    stepsAt(rung, totalSteps),
  ]);

describe("the rounds of halving", () => {
  it.each([
    [
      "eight trials",
      course(8, 80),
      [
        [8, 10],
        [4, 20],
        [2, 40],
        [1, 80],
      ],
    ],
    [
      "five trials",
      course(5, 80),
      [
        [5, 20],
        [2, 40],
        [1, 80],
      ],
    ],
    [
      "a factor of three",
      course(9, 90, { factor: 3 }),
      [
        [9, 10],
        [3, 30],
        [1, 90],
      ],
    ],
    [
      "at least 30 steps",
      course(8, 80, { leastSteps: 30 }),
      [
        [8, 40],
        [4, 80],
      ],
    ],
    [
      "more trials than steps",
      course(64, 4),
      [
        [64, 1],
        [32, 2],
        [16, 4],
      ],
    ],
    ["a single trial", course(1, 80), [[1, 80]]],
    [
      "steps that don't divide",
      course(4, 10),
      [
        [4, 3],
        [2, 5],
        [1, 10],
      ],
    ],
  ])("of %s", (_, found, expected) => expect(found).toEqual(expected));

  it("end where an evaluation is due anyway", () => {
    const [first, second] = rungsOf(4, { factor: 2, leastSteps: 1, totalSteps: 100 });
    expect([first, second].map((rung) => stepsAt(rung!, 100, 20))).toEqual([40, 60]);
    expect(stepsAt({ share: 1, trials: 1 }, 100, 30)).toBe(100);
  });

  it("rise to the end with fewer and fewer trials", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 500 }),
        fc.integer({ min: 2, max: 5 }),
        fc.integer({ min: 1, max: 5000 }),
        (trials, factor, totalSteps) => {
          const rungs = rungsOf(trials, { factor, leastSteps: 1, totalSteps });
          expect(rungs[0]!.trials).toBe(trials);
          expect(stepsAt(rungs.at(-1)!, totalSteps)).toBe(totalSteps);
          for (const [index, rung] of rungs.slice(1).entries()) {
            expect(rung.trials).toBeLessThan(rungs[index]!.trials);
            expect(stepsAt(rung, totalSteps)).toBeGreaterThan(stepsAt(rungs[index]!, totalSteps));
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it("are one without halving", () => expect(singleRung(3)).toEqual([{ share: 1, trials: 3 }]));
});

describe("the best trials of a round", () => {
  const scores = [2, 1, Number.NaN, 1, undefined, 3].map((score, index) => ({ trial: index + 1, score }));
  it("have the lowest or the highest scores, the earlier of two that are equal first", () => {
    expect(bestOf(scores, 2, "lower")).toEqual([2, 4]);
    expect(bestOf(scores, 1, "lower")).toEqual([2]);
    expect(bestOf(scores, 2, "higher")).toEqual([6, 1]);
  });

  it("never have no score: neither one that failed nor one that is not a number", () => {
    expect(bestOf(scores, 6, "lower")).toEqual([2, 4, 1, 6]);
    expect(bestOf([{ trial: 1, score: Number.NaN }], 1, "lower")).toEqual([]);
    expect(bestOf([{ trial: 1, score: Number.POSITIVE_INFINITY }], 1, "higher")).toEqual([]);
  });
});
