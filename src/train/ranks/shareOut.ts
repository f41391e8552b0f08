/**
 * Shares out work among ranks. Every rank computes the same answer from what all know, so nothing is sent.
 */

/**
 * Returns for each rank the indices of its work, ascending: the longest first, each to the rank that has the
 * fewest tokens so far, and every rank gets some if there is enough.
 */
export function sharedOut(tokens: readonly number[], ranks: number): number[][] {
  const longestFirst = tokens
    .map((_, index) => index)
    .sort((one, other) => tokens[other]! - tokens[one]! || one - other);
  const shares = Array.from({ length: ranks }, () => ({ tokens: 0, indices: [] as number[] }));
  for (const index of longestFirst) {
    const least = shares.reduce((best, share) => (isLess(share, best) ? share : best));
    least.indices.push(index);
    least.tokens += tokens[index]!;
  }
  return shares.map(({ indices }) => indices.sort((one, other) => one - other));
}

function isLess(
  one: { tokens: number; indices: number[] },
  other: { tokens: number; indices: number[] },
): boolean {
  return one.tokens === other.tokens ? one.indices.length < other.indices.length : one.tokens < other.tokens;
}

/** Returns for each round the index of each rank's work: the ranks take one in turn. */
export function inTurn(count: number, ranks: number): number[][] {
  const rounds = Math.ceil(count / ranks);
  return Array.from({ length: rounds }, (_, round) =>
    Array.from({ length: Math.min(ranks, count - round * ranks) }, (_, rank) => round * ranks + rank),
  );
}
