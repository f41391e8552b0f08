/** The points that no other point beats in both directions. */

export interface Point {
  x: number;
  y: number;
}

/**
 * Returns indices of the Pareto front, by ascending x: less x is better, and less y too, or more y with
 * `better: "higher"`. Of equal points all are in it.
 */
export function paretoFront(points: readonly Point[], better: "lower" | "higher" = "lower"): number[] {
  const sign = better === "lower" ? 1 : -1;
  const order = points
    .map(({ x, y }, index) => ({ index, x, y: sign * y }))
    .filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y))
    .sort((one, other) => one.x - other.x || one.y - other.y);
  const front: typeof order = [];
  for (const point of order) {
    const best = front.at(-1);
    if (!best || point.y < best.y || (point.y === best.y && point.x === best.x)) front.push(point);
  }
  return front.map(({ index }) => index);
}
