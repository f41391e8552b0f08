import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { randomAt } from "../../data/stream/random.ts";
import { UserError } from "../../errors.ts";
import { chooseToken, GREEDY } from "./sampling.ts";

const NOTHING_SEEN: ReadonlySet<number> = new Set();
const logitsOf = (probabilities: number[]) => Float32Array.from(probabilities, Math.log);

describe("greedy choice", () => {
  test("takes the largest logit, the first of equals", () => {
    expect(chooseToken(Float32Array.of(-3, 2, 2, 1), NOTHING_SEEN, GREEDY, 0.5)).toBe(1);
  });

  test("a penalty divides positive and multiplies negative logits of seen tokens, once each", () => {
    const logits = Float32Array.of(2, -1, 1.8, -1.1);
    chooseToken(logits, new Set([0, 1]), { ...GREEDY, repetitionPenalty: 1.25 }, 0.5);
    expect(logits).toMatchArray([1.6, -1.25, 1.8, -1.1], { atol: 1e-6 });
  });

  test("seen ids beyond the vocabulary change nothing", () => {
    const logits = Float32Array.of(1, 2);
    expect(chooseToken(logits, new Set([7]), { ...GREEDY, repetitionPenalty: 2 }, 0.5)).toBe(1);
    expect(logits).toHaveLength(2);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])("a logit of %d is refused", (bad) => {
    const choose = () => chooseToken(Float32Array.of(0, bad), NOTHING_SEEN, GREEDY, 0.5);
    expect(choose).toThrow(UserError);
  });
});

describe("sampling", () => {
  test("follows the probabilities", () => {
    const counts = [0, 0, 0];
    for (let draw = 0; draw < 20_000; draw++) {
      const uniform = randomAt(7, 0, draw);
      const id = chooseToken(logitsOf([0.2, 0.5, 0.3]), NOTHING_SEEN, { ...GREEDY, temperature: 1 }, uniform);
      counts[id] = (counts[id] ?? 0) + 1;
    }
    expect(counts.map((count) => count / 20_000)).toMatchArray([0.2, 0.5, 0.3], { atol: 0.015 });
  });

  test("temperature sharpens: 0.5 squares the odds", () => {
    const sampling = { ...GREEDY, temperature: 0.5 };
    const share = 0.8 ** 2 / (0.8 ** 2 + 0.2 ** 2); // of the first token
    const draw = (at: number) => chooseToken(logitsOf([0.8, 0.2]), NOTHING_SEEN, sampling, at);
    expect([draw(share - 0.001), draw(share + 0.001)]).toEqual([0, 1]);
  });

  test("top-p keeps a token while the likelier ones hold less than topP", () => {
    const draws = (topP: number) =>
      new Set(
        Array.from({ length: 100 }, (_, step) =>
          chooseToken(
            logitsOf([0.1, 0.4, 0.2, 0.3]),
            NOTHING_SEEN,
            { ...GREEDY, temperature: 1, topP },
            step / 100,
          ),
        ),
      );
    expect(draws(0.39)).toEqual(new Set([1]));
    expect(draws(0.45)).toEqual(new Set([1, 3]));
    expect(draws(0.75)).toEqual(new Set([1, 2, 3]));
    expect(draws(1)).toEqual(new Set([0, 1, 2, 3]));
  });

  test("of equals at the edge of top-p only as many are kept as it needs", () => {
    const draws = Array.from({ length: 50 }, (_, step) =>
      chooseToken(new Float32Array(4), NOTHING_SEEN, { ...GREEDY, temperature: 1, topP: 0.5 }, step / 50),
    );
    expect(new Set(draws).size).toBe(2);
  });

  test("any draw is one of the smallest set of likeliest tokens that holds topP", () => {
    const cases = {
      logits: fc.array(fc.integer({ min: -40, max: 40 }), {
        minLength: 1,
        maxLength: 30,
      }),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      at: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
    };
    fc.assert(
      fc.property(fc.record(cases), ({ logits, topP, at }) => {
        const sampling = { ...GREEDY, temperature: 1, topP };
        const id = chooseToken(Float32Array.from(logits), NOTHING_SEEN, sampling, at);
        const weights = logits.map(Math.exp);
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        const likelier = weights.filter((weight) => weight > (weights[id] as number));
        expect(likelier.reduce((sum, weight) => sum + weight, 0)).toBeLessThan(topP * total * (1 + 1e-12));
      }),
    );
  });
});
