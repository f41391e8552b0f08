/**
 * Finds the largest value that fits, in few tries; each try is a dry run. Only numbers on a grid are answers:
 * every whole number, and from some size on every second, fourth and so on. The answer therefore does not
 * depend on where the search begins.
 */

/**
 * Every number up to this is a grid number. A larger grid number is a multiple of a step, and has this many
 * to twice as many steps. A power of two.
 */
export const CLOSE_PARTS = 2048;

interface Range {
  least: number;
  most: number;
  /** A guess near the answer, if anything is known. The answer does not depend on it. */
  from?: number;
  parts?: number;
}

/**
 * Returns the largest grid number for which `shortage` is not above zero; undefined if not even the least
 * fits. `shortage` rises nearly in a line, so the search follows the line through two points, then bisects.
 */
export function largestThatFits(
  shortage: (value: number) => number,
  { least, most, from = 0, parts = CLOSE_PARTS }: Range,
): number | undefined {
  let low = { value: least, shortage: shortage(least) };
  if (low.shortage > 0) return undefined;
  let high = { value: Math.min(most, Math.max(onGrid(from, parts), 2 * least)), shortage: 0 };
  for (high.shortage = shortage(high.value); high.shortage <= 0; high.shortage = shortage(high.value)) {
    const line = crossing(low, high);
    low = { ...high };
    if (high.value >= most) return most;
    high.value = Math.min(most, onGrid(Math.max(2 * high.value, Math.ceil(line * 1.02)), parts));
  }
  for (let round = 0; ; round++) {
    const next = low.value + stepAt(low.value, parts);
    if (next >= high.value) return low.value;
    const nudge = ((round % 3 === 0 ? -1 : 1) * (high.value - low.value)) / 256;
    const guess = round % 3 === 2 ? (low.value + high.value) / 2 : crossing(low, high) + nudge;
    const last = onGrid(high.value - 1, parts);
    const value = Math.min(last, Math.max(next, onGrid(Math.round(guess), parts)));
    const point = { value, shortage: shortage(value) };
    if (point.shortage <= 0) low = point;
    else high = point;
  }
}

/**
 * Number of smaller values to check below a fitting one; they should fit too. Their grid is coarse, so that
 * other searches check the same values.
 */
const TRIED_BELOW = 3;
const COARSE_PARTS = 16;

/**
 * Finds the largest value if shortage may jump up and fall again, for example because an allocator loses
 * memory to gaps. A value beyond a gap is no answer, because an answer promises that every smaller value fits
 * as well.
 */
export function largestBelowGaps(shortage: (value: number) => number, range: Range): number | undefined {
  const { least } = range;
  let found = largestThatFits(shortage, range);
  for (;;) {
    if (found === undefined) return undefined;
    const gap = coarseBelow(found).find((value) => value > least && shortage(value) > 0);
    if (gap === undefined) return found;
    found = largestThatFits(shortage, { ...range, most: gap, from: gap });
  }
}

function coarseBelow(found: number): number[] {
  const values: number[] = [];
  for (let value = found; values.length < TRIED_BELOW; values.push(value))
    value = onGrid(value - 1, COARSE_PARTS);
  return values;
}

/** Returns the largest grid number that is not above a number. */
function onGrid(value: number, parts: number): number {
  const step = stepAt(value, parts);
  return Math.floor(value / step) * step;
}

/** Returns the distance from a grid number to the next. */
function stepAt(value: number, parts: number): number {
  return Math.max(1, 2 ** Math.floor(Math.log2(Math.max(1, value) / parts)));
}

interface Point {
  value: number;
  shortage: number;
}

function crossing(low: Point, high: Point): number {
  const slope = (high.shortage - low.shortage) / (high.value - low.value);
  return slope > 0 ? low.value - low.shortage / slope : 2 * high.value;
}
