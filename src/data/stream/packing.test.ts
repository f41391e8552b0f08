import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countBatches, type DataPosition, type Packing, planBatches, START } from "./packing.ts";

const runs = fc.record({
  tokens: fc.array(fc.integer({ min: 1, max: 100 }), { maxLength: 120 }),
  packing: fc.oneof(
    fc.record({ by: fc.constant("samples" as const), samples: fc.integer({ min: 1, max: 9 }) }),
    fc.record({ by: fc.constant("tokens" as const), tokens: fc.integer({ min: 100, max: 400 }) }),
  ),
});

function plan(tokens: number[], packing: Packing, from: DataPosition = START) {
  return [...planBatches((draw) => tokens[draw] as number, packing, tokens.length, from)];
}

describe("micro-batches", () => {
  it("hold every draw once", () => {
    fc.assert(
      fc.property(runs, ({ tokens, packing }) => {
        const draws = plan(tokens, packing).flatMap((batch) => batch.draws);
        expect(draws.sort((a, b) => a - b)).toEqual(tokens.map((_, draw) => draw));
      }),
    );
  });

  it("never exceed their limit, and the oldest draw is always in the next one", () => {
    fc.assert(
      fc.property(runs, ({ tokens, packing }) => {
        const open = new Set(tokens.keys());
        for (const { draws } of plan(tokens, packing)) {
          const sum = draws.reduce((total, draw) => total + (tokens[draw] as number), 0);
          expect(packing.by === "tokens" ? sum : draws.length).toBeLessThanOrEqual(
            packing.by === "tokens" ? packing.tokens : packing.samples,
          );
          expect(draws[0]).toBe(Math.min(...open));
          for (const draw of draws) open.delete(draw);
        }
      }),
    );
  });

  it("go on from any position, through JSON, as if never stopped", () => {
    fc.assert(
      fc.property(runs, fc.nat(), ({ tokens, packing }, at) => {
        const whole = plan(tokens, packing);
        const stop = whole.length === 0 ? 0 : at % whole.length;
        const position = stop === 0 ? START : (whole[stop - 1]?.after as DataPosition);
        expect(plan(tokens, packing, JSON.parse(JSON.stringify(position)))).toEqual(whole.slice(stop));
      }),
    );
  });

  it("are counted without being made", () => {
    fc.assert(
      fc.property(runs, ({ tokens, packing }) => {
        expect(countBatches((draw) => tokens[draw] as number, packing, tokens.length)).toBe(
          plan(tokens, packing).length,
        );
      }),
    );
  });

  it("packed by tokens let small draws pass one that doesn't fit", () => {
    const batches = plan([60, 70, 30, 10], { by: "tokens", tokens: 100 });
    expect(batches.map(({ draws }) => draws)).toEqual([[0, 2, 3], [1]]);
    expect(batches[0]?.after).toEqual({ next: 4, waiting: [1] });
  });

  it("packed by samples keep the order and end with the rest", () => {
    expect(plan([1, 1, 1, 1, 1], { by: "samples", samples: 2 }).map(({ draws }) => draws)).toEqual([
      [0, 1],
      [2, 3],
      [4],
    ]);
  });

  it("go on for ever where the stream has no end", () => {
    const endless = planBatches(() => 1, { by: "tokens", tokens: 3 }, Number.POSITIVE_INFINITY);
    for (let batch = 0; batch < 5; batch++)
      expect(endless.next().value?.draws).toEqual([0, 1, 2].map((draw) => 3 * batch + draw));
  });
});
