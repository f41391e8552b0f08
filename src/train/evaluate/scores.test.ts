import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { anls, editDistance, exactMatch } from "./scores.ts";

describe("exact match", () => {
  it("ignores case and white space, and nothing else", () => {
    expect(exactMatch(" 12.50  EUR\n", "12.50 eur")).toBe(1);
    expect(exactMatch("12,50 eur", "12.50 eur")).toBe(0);
    expect(exactMatch("", "12.50")).toBe(0);
  });
});

describe("ANLS", () => {
  it("is the share of characters that agree", () => {
    expect(anls("12.50", "12.50")).toBe(1);
    expect(anls("12.58", "12.50")).toBeCloseTo(0.8, 12);
    expect(anls("invoce", "invoice")).toBeCloseTo(6 / 7, 12);
  });

  it("is 0 below one half, and kept at one half", () => {
    expect(anls("ab", "ax")).toBe(0.5);
    expect(anls("abc", "axx")).toBe(0);
    expect(anls("", "total")).toBe(0);
    expect(anls("", "")).toBe(1);
  });

  it("counts a character outside the basic plane once", () => {
    expect(anls("😀b", "😀c")).toBe(0.5);
  });
});

describe("edit distance", () => {
  it.each([
    ["kitten", "sitting", 3],
    ["", "abc", 3],
    ["abc", "", 3],
    ["flaw", "lawn", 2],
  ])("%s to %s is %i", (left, right, distance) => {
    expect(editDistance([...left], [...right])).toBe(distance);
  });

  it("is a metric: symmetric, 0 for equals only, and keeps the triangle inequality", () => {
    const word = fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 8 });
    fc.assert(
      fc.property(word, word, word, (x, y, z) => {
        expect(editDistance(x, y)).toBe(editDistance(y, x));
        expect(editDistance(x, y) === 0).toBe(x.join("") === y.join(""));
        expect(editDistance(x, z)).toBeLessThanOrEqual(editDistance(x, y) + editDistance(y, z));
      }),
    );
  });
});
