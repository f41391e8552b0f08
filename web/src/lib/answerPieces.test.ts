import { expect, it } from "vitest";
import { answerPieces } from "./answerPieces.ts";

const shown = (answer: string, expected: string): string[] => {
  const pieces = answerPieces({ answer, expected });
  return [pieces.answer, pieces.expected].map((each) =>
    each.map(({ text, isCommon }) => (isCommon ? text : `[${text}]`)).join(""),
  );
};

it.each([
  ["12.40", "12.40", "12.40", "12.40"],
  ["VAT 12.60 EUR", "VAT 12.40 EUR", "VAT [12.60] EUR", "VAT [12.40] EUR"],
  ["nothing alike", "12.40", "[nothing alike]", "[12.40]"],
  ["", "12.40", "", "[12.40]"],
])("%j beside %j", (answer, expected, shownAnswer, shownExpected) =>
  expect(shown(answer, expected)).toEqual([shownAnswer, shownExpected]),
);

it("marks nothing where nothing is expected", () => {
  expect(answerPieces({ answer: "free" })).toEqual({
    answer: [{ text: "free", isCommon: true }],
    expected: [],
  });
});
