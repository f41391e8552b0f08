/** Round numbers along an axis. */

/** Returns about `count` round numbers from `low` to `high`. */
export function linearTicks(low: number, high: number, count: number): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => (first + index) * step);
}

/** Returns about `count` numbers from `low` to `high`, which are above 0: 1, 2 and 5 times powers of ten. */
export function logTicks(low: number, high: number, count: number): number[] {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const powers = Array.from({ length: to - from + 1 }, (_, index) => from + index);
  const within = (factors: number[]): number[] =>
    powers
      .flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)))
      .filter((tick) => tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9));
  const [fine, coarse] = [within([1, 2, 5]), within([1])];
  return fine.length <= count || coarse.length < 2 ? fine : coarse;
}

/**
 * Whether values are spread by ratios and not by differences: 4, 8, 16, 32, or 5e-5, 1e-4, 1e-3. Fewer than three
 * different values do not tell.
 */
export function isLogarithmic(values: readonly number[]): boolean {
  const sorted = [...new Set(values)].sort((one, other) => one - other);
  if (sorted.length < 3 || !(sorted[0]! > 0)) return false;
  return unevenness(sorted.map(Math.log)) < unevenness(sorted);
}

/** Returns how much gaps between neighbours differ: 0 if they are equal. */
function unevenness(sorted: readonly number[]): number {
  const gaps = sorted.slice(1).map((value, index) => value - sorted[index]!);
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  return gaps.reduce((sum, gap) => sum + (gap / mean - 1) ** 2, 0);
}
