/** An answer beside the expected one, with what differs marked. */

import { differences, type Piece } from "../../../src/differences.ts";
import type { AnswerRecord } from "../../../src/server/ui/api.ts";

export interface MarkedAnswer {
  answer: Piece[];
  expected: Piece[];
}

/** Returns both texts in pieces. Texts that share no word differ as a whole. */
export function answerPieces({
  answer = "",
  expected,
}: Pick<AnswerRecord, "answer" | "expected">): MarkedAnswer {
  if (expected === undefined) return { answer: whole(answer, true), expected: [] };
  if (answer === expected) return { answer: whole(answer, true), expected: whole(expected, true) };
  const [left, right] = differences(answer, expected);
  const isUnmarked = [...left, ...right].every(({ isCommon }) => isCommon);
  if (isUnmarked) return { answer: whole(answer, false), expected: whole(expected, false) };
  return { answer: left, expected: right };
}

function whole(text: string, isCommon: boolean): Piece[] {
  return text === "" ? [] : [{ text, isCommon }];
}
