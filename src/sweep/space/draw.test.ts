import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { gridTrials, randomTrials, sizeOf } from "./draw.ts";
import { readSpace, type Space } from "./space.ts";

const spaceOf = (raw: Record<string, unknown>): Space =>
  readSpace({ model: "m", data: "d", ...raw }, (key) => key).space;

/** Spaces of one to four options with one to four values each. */
const anySpace = fc
  .tuple(
    fc.uniqueArray(fc.integer({ min: 1, max: 64 }), { minLength: 2, maxLength: 4 }),
    fc.uniqueArray(fc.integer({ min: 1, max: 99 }), { minLength: 2, maxLength: 4 }),
    fc.uniqueArray(fc.constantFrom("cosine", "linear", "constant"), { minLength: 2 }),
    fc.boolean(),
  )
  .map(([lora_r, hd_num, lr_schedule, pack]) =>
    spaceOf({ lora_r, hd_num, lr_schedule, ...(pack && { pack: [true, false] }) }),
  );

const names = (trials: object[]): string[] => trials.map((trial) => JSON.stringify(trial));

describe("a grid", () => {
  it("has every combination once, the last option changing fastest", () => {
    const space = spaceOf({ lora_r: [4, 8], lora_alpha: ["1x", "2x"] });
    expect(gridTrials(space)).toEqual([
      { lora_r: 4, lora_alpha: 4 },
      { lora_r: 4, lora_alpha: 8 },
      { lora_r: 8, lora_alpha: 8 },
      { lora_r: 8, lora_alpha: 16 },
    ]);
    fc.assert(
      fc.property(anySpace, (space) => {
        const found = names(gridTrials(space));
        expect(new Set(found).size).toBe(found.length);
        expect(found.length).toBe(sizeOf(space));
      }),
      { numRuns: 50 },
    );
  });

  it("has one trial for combinations that mean the same", () => {
    expect(gridTrials(spaceOf({ lora_r: 8, lora_alpha: [8, "1x", 16, "2x"] }))).toEqual([
      { lora_alpha: 8 },
      { lora_alpha: 16 },
    ]);
  });

  it("of a range needs a count, and has an end", () => {
    expect(() => gridTrials(spaceOf({ learning_rate: "log:1e-5..1e-3" }))).toThrow("number of values");
    const large = spaceOf({ learning_rate: "log:1e-5..1e-3:90", lora_dropout: "linear:0..0.5:90" });
    expect(() => gridTrials(large)).toThrow("A grid of 8,100 trials");
  });
});

describe("random trials", () => {
  it("are at most 1,000: more are refused, not cut", () => {
    const space = spaceOf({ learning_rate: "log:1e-5..1e-3" });
    expect(() => randomTrials(space, 1_001, 0)).toThrow("1,001 trials are more than 1,000");
    expect(randomTrials(space, 1_000, 0)).toHaveLength(1_000);
  });

  it("are those of the grid, each once, the same ones for the same seed", () => {
    fc.assert(
      fc.property(anySpace, fc.nat(), fc.integer({ min: 1, max: 20 }), (space, seed, count) => {
        const drawn = names(randomTrials(space, count, seed));
        expect(names(randomTrials(space, count, seed))).toEqual(drawn);
        expect(names(randomTrials(space, count + 5, seed)).slice(0, drawn.length)).toEqual(drawn);
        expect(new Set(drawn).size).toBe(drawn.length);
        expect(drawn.length).toBe(Math.min(count, sizeOf(space)));
        const grid = new Set(names(gridTrials(space)));
        expect(drawn.every((name) => grid.has(name))).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  it("differ with the seed", () => {
    const space = spaceOf({ lora_r: [1, 2, 3, 4, 5, 6, 7, 8], hd_num: [1, 2, 3, 4, 5, 6, 7, 8] });
    expect(randomTrials(space, 8, 1)).not.toEqual(randomTrials(space, 8, 2));
  });

  it("of open ranges are spread over them: evenly by their logarithm, and by whole numbers", () => {
    const space = spaceOf({ learning_rate: "log:1e-5..1e-3", lora_r: "linear:4..32" });
    const drawn = randomTrials(space, 200, 7);
    expect(drawn).toHaveLength(200);
    const below = drawn.filter(({ learning_rate }) => (learning_rate as number) < 1e-4).length;
    expect(below).toBeGreaterThan(70);
    expect(below).toBeLessThan(130);
    for (const { learning_rate, lora_r } of drawn) {
      expect(Number.isInteger(lora_r)).toBe(true);
      expect(learning_rate).toBeGreaterThanOrEqual(1e-5);
      expect(learning_rate).toBeLessThanOrEqual(1e-3);
    }
  });

  it("end where a range of whole numbers has no more", () => {
    const space = spaceOf({ lora_r: { linear: [1, 3] } });
    expect(
      randomTrials(space, 10, 0)
        .map(({ lora_r }) => lora_r as number)
        .sort(),
    ).toEqual([1, 2, 3]);
  });
});
