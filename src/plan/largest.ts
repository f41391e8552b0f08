/** The largest of something that fits, found in few tries: each of them is a dry run. */

/** What is solved for is found to one such part of itself. */
export const CLOSE_PARTS = 2048;

/**
 * The largest whole number where `shortage`, which rises nearly in a line, is not above zero: by the line through two points, then by
 * halves; to one part of `parts`. Undefined where not even the least number fits.
 */
export function largestThatFits(
  shortage: (value: number) => number,
  { least, most, from, parts = CLOSE_PARTS }: { least: number; most: number; from: number; parts?: number },
): number | undefined {
  let low = { value: least, shortage: shortage(least) };
  if (low.shortage > 0) return undefined;
  let high = { value: Math.max(from, 2 * least), shortage: 0 };
  for (high.shortage = shortage(high.value); high.shortage <= 0; high.shortage = shortage(high.value)) {
    const line = crossing(low, high);
    low = { ...high };
    if (high.value >= most) return most;
    high.value = Math.min(most, Math.max(2 * high.value, Math.ceil(line * 1.02)));
  }
  const isClose = (): boolean => high.value - low.value <= Math.max(1, low.value / parts);
  for (let round = 0; !isClose(); round++) {
    const middle = (low.value + high.value) / 2;
    const guess =
      round % 3 === 2
        ? middle
        : crossing(low, high) + ((round % 3 === 0 ? -1 : 1) * (high.value - low.value)) / 256;
    const value = Math.min(high.value - 1, Math.max(low.value + 1, Math.round(guess)));
    const point = { value, shortage: shortage(value) };
    if (point.shortage <= 0) low = point;
    else high = point;
  }
  return low.value;
}

interface Point {
  value: number;
  shortage: number;
}

function crossing(low: Point, high: Point): number {
  const slope = (high.shortage - low.shortage) / (high.value - low.value);
  return slope > 0 ? low.value - low.shortage / slope : 2 * high.value;
}
