/**
 * Computes learning-rate schedules, equal to transformers' get_{cosine,linear,constant}_schedule_with_warmup.
 */

export const SCHEDULES = {
  cosine: (progress) => Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress))),
  linear: (progress) => Math.max(0, 1 - progress),
  constant: () => 1,
} as const satisfies Record<string, (progress: number) => number>;

export type ScheduleName = keyof typeof SCHEDULES;

export interface Schedule {
  name: ScheduleName;
  peakRate: number;
  warmupSteps: number;
  totalSteps: number;
}

/**
 * Returns the rate of an optimizer step, counted from 1. The first step of a warm-up has a rate of 0, as in
 * transformers.
 */
export function learningRate(step: number, { name, peakRate, warmupSteps, totalSteps }: Schedule): number {
  const stepsDone = step - 1;
  if (stepsDone < warmupSteps) {
    return (peakRate * stepsDone) / warmupSteps;
  }
  const progress = (stepsDone - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
  return peakRate * SCHEDULES[name](progress);
}

/** Returns the steps of a warm-up that is a share of all steps, rounded up. */
export function stepsOfRatio(ratio: number, totalSteps: number): number {
  return Math.ceil(totalSteps * ratio);
}
