import fc from "fast-check";
import { expect, it } from "vitest";
import { inTurn, sharedOut } from "./shareOut.ts";

const lengths = fc.array(fc.integer({ min: 1, max: 5000 }), { maxLength: 40 });
const ranks = fc.integer({ min: 1, max: 9 });

it("shares out every index once, in ascending order, and leaves no rank idle beside one with two", () => {
  fc.assert(
    fc.property(lengths, ranks, (tokens, count) => {
      const shares = sharedOut(tokens, count);
      expect(shares).toHaveLength(count);
      expect(shares.flat().sort((one, other) => one - other)).toEqual(tokens.map((_, index) => index));
      for (const share of shares) expect(share).toEqual([...share].sort((one, other) => one - other));
      const sizes = shares.map((share) => share.length);
      if (sizes.includes(0)) expect(Math.max(...sizes)).toBeLessThanOrEqual(1);
    }),
  );
});

it("no rank has more than the mean and the longest together", () => {
  fc.assert(
    fc.property(lengths, ranks, (tokens, count) => {
      const loads = sharedOut(tokens, count).map((share) => share.reduce((sum, at) => sum + tokens[at]!, 0));
      const mean = tokens.reduce((sum, each) => sum + each, 0) / count;
      expect(Math.max(...loads)).toBeLessThanOrEqual(mean + Math.max(0, ...tokens));
    }),
  );
});

it("takes one in turn, round by round", () => {
  expect(inTurn(7, 3)).toEqual([[0, 1, 2], [3, 4, 5], [6]]);
  expect(inTurn(0, 3)).toEqual([]);
});
