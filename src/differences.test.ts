import fc from "fast-check";
import { expect, it } from "vitest";
import { withDifferences } from "./differences.ts";

const brackets = (text: string): string => `[${text}]`;

it.each([
  ["the same text", "the same text", "the same text", "the same text"],
  ["VAT 12.40 EUR", "VAT 12.60 EUR", "VAT [12.40] EUR", "VAT [12.60] EUR"],
  ["paid in cash", "paid cash", "paid [in ]cash", "paid cash"],
  ["a b c d e", "a x y d e", "a [b c] d e", "a [x y] d e"],
  ["one two", "three four", "one two", "three four"],
  ["something", "", "something", ""],
])("%j beside %j", (one, other, shownOne, shownOther) => {
  expect(withDifferences(one, other, brackets)).toEqual([shownOne, shownOther]);
});

it("nothing of either text is lost or changed", () => {
  const text = fc.array(fc.constantFrom("a", "b", " ", ".", "12.5", "\n"), { maxLength: 12 });
  fc.assert(
    fc.property(text, text, (left, right) => {
      const [one, other] = [left.join(""), right.join("")];
      const shown = withDifferences(one, other, (part) => `‹${part}›`);
      const plain = shown.map((each) => each.replaceAll(/[‹›]/g, ""));
      expect(plain).toEqual([one, other]);
      const kept = shown.map((each) => each.replaceAll(/‹[^›]*›/g, "").replaceAll(/\s/g, ""));
      if (shown.some((each, at) => each !== [one, other][at])) expect(kept[0]).toBe(kept[1]);
    }),
  );
});

it("texts of many thousand words are compared from both ends", () => {
  const long = (word: string): string => Array.from({ length: 5000 }, (_, at) => `${word}${at}`).join(" ");
  const [shown] = withDifferences(`same ${long("a")} end`, `same ${long("b")} end`, brackets);
  expect(shown).toMatch(/^same \[a0 a1 [^[]*a4999\] end$/);
});
