/** Chooses the steps that a curve shows. Runs in the page too, so it imports nothing. */

/**
 * Returns places of at most `most` of the steps (4 at least), in order: of each stretch the lowest and the
 * highest loss, and both ends.
 */
export function thinnedPlaces(loss: readonly (number | null)[], most: number): number[] {
  const count = loss.length;
  if (count <= most) return Array.from(loss, (_, place) => place);
  const chosen = new Set([0, count - 1]);
  const stretches = Math.max(1, Math.floor(most / 2) - 1);
  for (let stretch = 0; stretch < stretches; stretch++) {
    const from = Math.floor((stretch * count) / stretches);
    const to = Math.floor(((stretch + 1) * count) / stretches);
    let [lowest, highest] = [from, from];
    for (let at = from; at < to; at++) {
      if ((loss[at] ?? Number.POSITIVE_INFINITY) < (loss[lowest] ?? Number.POSITIVE_INFINITY)) lowest = at;
      if ((loss[at] ?? Number.NEGATIVE_INFINITY) > (loss[highest] ?? Number.NEGATIVE_INFINITY)) highest = at;
    }
    chosen.add(lowest).add(highest);
  }
  return [...chosen].sort((one, other) => one - other);
}
