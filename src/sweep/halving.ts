/**
 * Successive halving (Jamieson and Talwalkar, 2016): all trials begin with a part of their steps, and after
 * each round the better ones continue. A round is called rung here.
 */

export interface Rung {
  /** Share of a trial's steps that are done at the rung's end. */
  share: number;
  /** Trials that take part, at most. */
  trials: number;
}

/** A trial at the end of a rung; without a score if it has failed or its score is not a number. */
export interface Ranked {
  trial: number;
  score: number | undefined;
}

/** Returns the one rung of a sweep in which every trial runs to its end. */
export function singleRung(trials: number): Rung[] {
  return [{ share: 1, trials }];
}

/**
 * Returns the rungs. The last one reaches the end; each before it has 1/factor of the steps of the next, and
 * factor times as many trials. leastSteps: of the first rung.
 */
export function rungsOf(
  trials: number,
  { factor, leastSteps, totalSteps }: { factor: number; leastSteps: number; totalSteps: number },
): Rung[] {
  let rungs = 1;
  let scale = 1;
  while (trials >= scale * factor && totalSteps >= leastSteps * scale * factor) {
    rungs += 1;
    scale *= factor;
  }
  return Array.from({ length: rungs }, (_, rung) => ({
    share: factor ** (rung + 1 - rungs),
    trials: Math.max(1, Math.floor(trials / factor ** rung)),
  }));
}

/** Returns the step at which a trial ends a rung; a multiple of `every`, where evaluations are. */
export function stepsAt({ share }: Rung, totalSteps: number, every = 1): number {
  if (share >= 1) return totalSteps;
  const steps = Math.max(1, Math.round(share * totalSteps));
  return Math.min(totalSteps, Math.ceil(steps / every) * every);
}

/** Returns the best trials, the earlier one of two that are equal. Those without a score are left out. */
export function bestOf(ranked: readonly Ranked[], most: number, better: "lower" | "higher"): number[] {
  const sign = better === "lower" ? 1 : -1;
  return ranked
    .filter((one): one is Ranked & { score: number } => Number.isFinite(one.score))
    .toSorted((one, other) => sign * (one.score - other.score) || one.trial - other.trial)
    .slice(0, most)
    .map(({ trial }) => trial);
}
