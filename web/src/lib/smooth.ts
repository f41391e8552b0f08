/** Smoothing of noisy curves. */

/**
 * Returns an exponential moving average over about `span` steps; the values themselves for a span of 1. Where
 * steps are missing, what came before weighs less by as many steps. The first values are not drawn towards zero.
 */
export function smoothed(
  steps: readonly number[],
  values: readonly (number | null)[],
  span: number,
): (number | null)[] {
  if (span <= 1) return [...values];
  const keep = 1 - 1 / span;
  let [sum, weight, before] = [0, 0, steps[0] ?? 0];
  return values.map((value, index) => {
    const step = steps[index] ?? before + 1;
    if (value === null || !Number.isFinite(value)) return null;
    const kept = keep ** Math.max(1, step - before);
    before = step;
    sum = kept * sum + (1 - keep) * value;
    weight = kept * weight + (1 - keep);
    return sum / weight;
  });
}

/** Returns the span that a slider's position from 0 to 100 stands for: 1, 2, 3, ... 1000, by equal ratios. */
export function spanOf(position: number): number {
  return Math.max(1, Math.round(10 ** ((position / 100) * 3)));
}
