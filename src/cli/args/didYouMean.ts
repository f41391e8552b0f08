/** Finds the known name that a mistyped one was meant to be. */

/** Largest share of the letters that may differ. */
const FARTHEST_RATIO = 0.4;

/** Returns what is shown for the nearest candidate, or undefined if none is near. */
export function didYouMean<T>(typed: string, candidates: Iterable<[name: string, shown: T]>): T | undefined {
  const word = plain(typed);
  let nearest: { shown: T; distance: number } | undefined;
  for (const [name, shown] of candidates) {
    const distance = typingErrors(word, plain(name));
    if (distance < (nearest?.distance ?? Number.POSITIVE_INFINITY)) nearest = { shown, distance };
  }
  return nearest && nearest.distance <= word.length * FARTHEST_RATIO ? nearest.shown : undefined;
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[-_]/g, "");
}

/**
 * Counts letters that are wrong, missing or too many, and neighbours that are swapped (optimal string
 * alignment).
 */
function typingErrors(one: string, other: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, column) => column);
  for (let row = 1; row <= one.length; row++) {
    const current = [row];
    for (let column = 1; column <= other.length; column++) {
      const same = one[row - 1] === other[column - 1];
      const swapped =
        row > 1 && column > 1 && one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1];
      current[column] = Math.min(
        last[column]! + 1,
        current[column - 1]! + 1,
        last[column - 1]! + (same ? 0 : 1),
        swapped ? beforeLast[column - 2]! + 1 : Number.POSITIVE_INFINITY,
      );
    }
    [beforeLast, last] = [last, current];
  }
  return last[other.length]!;
}
