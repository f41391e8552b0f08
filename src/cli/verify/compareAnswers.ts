/** Finds the first difference between two answers. */

/** An answer: its token ids, and its text if there is a tokenizer. */
export interface VerifiedAnswer {
  ids: number[];
  text: string | null;
}

/** Two answers to a sample that differ. */
export interface AnswerDifference {
  /** Index of the sample, from 0. */
  sample: number;
  /** Index of the first token that differs, from 0. */
  token: number;
  applied: VerifiedAnswer;
  other: VerifiedAnswer;
}

/** Returns a difference for each sample whose answers are not the same tokens. */
export function answerDifferences(
  applied: readonly VerifiedAnswer[],
  others: readonly VerifiedAnswer[],
): AnswerDifference[] {
  return applied.flatMap((answer, sample) => {
    const other = others[sample]!;
    const token = firstDifference(answer.ids, other.ids);
    return token === undefined ? [] : [{ sample, token, applied: answer, other }];
  });
}

function firstDifference(one: readonly number[], other: readonly number[]): number | undefined {
  for (let at = 0; at < Math.max(one.length, other.length); at++) if (one[at] !== other[at]) return at;
  return undefined;
}
