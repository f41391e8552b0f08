/** Puts curves with x values of their own onto one x axis. */

export interface Curve {
  /** Ascending. */
  xs: readonly number[];
  values: readonly (number | null)[];
}

/** Returns all x values, ascending and each once, and each curve's values there; null where it has none. */
export function aligned(curves: readonly Curve[]): { xs: number[]; values: (number | null)[][] } {
  const xs = [...new Set(curves.flatMap((curve) => curve.xs as number[]))].sort((one, other) => one - other);
  const places = new Map(xs.map((x, index) => [x, index]));
  const values = curves.map((curve) => {
    const row = new Array<number | null>(xs.length).fill(null);
    for (const [index, x] of curve.xs.entries()) row[places.get(x)!] = curve.values[index] ?? null;
    return row;
  });
  return { xs, values };
}

/** Returns for each x of `xs` the last value of a curve up to there; null before its first. */
export function heldAt(xs: readonly number[], curve: Curve): (number | null)[] {
  let at = -1;
  return xs.map((x) => {
    while (at + 1 < curve.xs.length && curve.xs[at + 1]! <= x) at++;
    return at < 0 ? null : (curve.values[at] ?? null);
  });
}
