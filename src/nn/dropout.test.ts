import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ones } from "../torch/create.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { DROPOUT_BLOCK_ROWS, dropped, mixSeed } from "./dropout.ts";
import { rowsOf, tilesOf } from "./rows.ts";

const dropout = { probability: 0.25, seed: 42n };

describe("dropped", () => {
  it("gives the same mask whole and in tiles of blocks", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1800 }), fc.integer({ min: 1, max: 3 }), (rows, blocks) =>
        scope(() => {
          const x = ones([rows, 5], { dtype: "float32", device: "cpu" });
          const whole = dropped(x, dropout, 0).toArray() as Float32Array;
          for (const tile of tilesOf(rows, blocks * DROPOUT_BLOCK_ROWS)) {
            const part = dropped(rowsOf(x, tile), dropout, tile.start).toArray() as Float32Array;
            expect(part).toEqual(whole.slice(tile.start * 5, tile.end * 5));
          }
        }),
      ),
      { numRuns: 20 },
    );
  });

  it("gives rows from any one on the mask that they have in the whole", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 1799 }), (first) =>
        scope(() => {
          const x = ones([1800, 5], { dtype: "float32", device: "cpu" });
          const whole = dropped(x, dropout, 0).toArray() as Float32Array;
          const rest = dropped(rowsOf(x, { start: first, end: 1800 }), dropout, first);
          expect(rest.toArray()).toEqual(whole.slice(first * 5));
        }),
      ),
      { numRuns: 20 },
    );
  });

  it("gives picked rows the mask that they have in the whole", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 0, max: 1799 }), { minLength: 1 }), (rows) =>
        scope(() => {
          const picked = Int32Array.from(rows.toSorted((a, b) => a - b));
          const of = (count: number): Tensor => ones([count, 5], { dtype: "float32", device: "cpu" });
          const whole = dropped(of(1800), dropout, 0).toArray() as Float32Array;
          const part = dropped(of(picked.length), dropout, picked).toArray() as Float32Array;
          expect(part).toEqual(
            Float32Array.from([...picked].flatMap((row) => [...whole.slice(row * 5, row * 5 + 5)])),
          );
        }),
      ),
      { numRuns: 20 },
    );
  });

  it("keeps the mean and drops its share", () => {
    scope(() => {
      const kept = dropped(
        ones([2000, 50], { dtype: "float32", device: "cpu" }),
        dropout,
        0,
      ).toArray() as Float32Array;
      const zeros = kept.filter((value) => value === 0).length / kept.length;
      expect(zeros).toBeGreaterThan(0.24);
      expect(zeros).toBeLessThan(0.26);
      expect(Math.max(...kept.slice(0, 1000))).toBeCloseTo(1 / 0.75, 6);
    });
  });

  it("differs by block, part and seed", () => {
    scope(() => {
      const x = ones([512, 8], { dtype: "float32", device: "cpu" });
      const masks = [
        dropped(x, dropout, 0),
        dropped(x, dropout, 512),
        dropped(x, dropout, 0, 1),
        dropped(x, { ...dropout, seed: mixSeed(42n, 1) }, 0),
      ].map((mask) => (mask.toArray() as Float32Array).join());
      expect(new Set(masks).size).toBe(4);
    });
  });
});

describe("mixSeed", () => {
  it("gives different seeds for different parts", () => {
    fc.assert(
      fc.property(
        fc.nat(1e6),
        fc.nat(1e6),
        (one, other) => (one === other) === (mixSeed(1n, one) === mixSeed(1n, other)),
      ),
    );
  });
});
