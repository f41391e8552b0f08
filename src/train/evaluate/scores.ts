/** Scores an answer against the expected one: exact match, and ANLS of document question answering. */

/** Below this similarity an answer counts as wrong. Source: arXiv:1907.00490, section 5. */
const ANLS_THRESHOLD = 0.5;

/** Returns 1 if the texts are equal, else 0; ignores case and white space around and between words. */
export function exactMatch(answer: string, expected: string): number {
  return normalise(answer) === normalise(expected) ? 1 : 0;
}

/** Returns the normalised Levenshtein similarity, or 0 if it is below the threshold. */
export function anls(answer: string, expected: string): number {
  const [left, right] = [[...normalise(answer)], [...normalise(expected)]];
  const longest = Math.max(left.length, right.length);
  const similarity = longest === 0 ? 1 : 1 - editDistance(left, right) / longest;
  return similarity < ANLS_THRESHOLD ? 0 : similarity;
}

/** Counts the insertions, deletions and substitutions that turn one sequence into the other. */
export function editDistance<T>(left: readonly T[], right: readonly T[]): number {
  let above = Array.from({ length: right.length + 1 }, (_, column) => column);
  for (const [row, symbol] of left.entries()) {
    const current = [row + 1];
    for (const [column, other] of right.entries()) {
      const substituted = (above[column] ?? 0) + (symbol === other ? 0 : 1);
      current.push(Math.min(substituted, (above[column + 1] ?? 0) + 1, (current[column] ?? 0) + 1));
    }
    above = current;
  }
  return above[right.length] ?? 0;
}

function normalise(text: string): string {
  return text.trim().toLowerCase().replace(/\s+/gu, " ");
}
