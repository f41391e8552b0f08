/** Facts for the page of a plan: memory over a step, memory of other sizes, and the cost of the rank. */
import { pictureFormOf } from "../models/families.ts";
import type { Moment } from "../plan/dryRun/dryRun.ts";
import type { SizedPlan, SizedWorkload } from "../plan/planner.ts";
import { leanestPlan } from "../plan/search.ts";
import { MAX_LENGTHS } from "./planSizes.ts";
import type { Question } from "./question.ts";

const RANKS = [4, 8, 16, 32, 64];

export interface PageFacts {
  moments: readonly Moment[];
  sizes: {
    /** Values of the option that limits a picture's tokens. */
    pictureLimits: readonly number[];
    maxLengths: number[];
    /** Least device bytes by limit, then by max_length; null if a picture would leave no token to learn. */
    bytes: (number | null)[][];
  };
  /** Device bytes under the recommended policy. */
  ranks: { rank: number; bytes: number }[];
}

export function pageFactsOf(question: Question, { run, workload, policy }: SizedPlan): PageFacts {
  const { planner, limits } = question;
  const pictureLimits = pictureFormOf(planner.config).limit.usual;
  const bytes = pictureLimits.map((pictureLimit) =>
    MAX_LENGTHS.map((maxLength) => leastBytes(question, workload, { pictureLimit, maxLength })),
  );
  return {
    moments: run.timeline(),
    sizes: { pictureLimits, maxLengths: MAX_LENGTHS, bytes },
    ranks: RANKS.map((rank) => ({
      rank,
      bytes: planner.plan({ ...workload, rank }, policy, limits).run.budgetedBytes,
    })),
  };
}

/**
 * Returns the least device bytes of a workload at other sizes; null if a picture would leave no token to
 * learn.
 */
export function leastBytes(
  { planner, limits, fixed }: Question,
  workload: SizedWorkload,
  { pictureLimit, maxLength }: { pictureLimit: number; maxLength: number },
): number | null {
  if (pictureFormOf(planner.config).largest(pictureLimit).tokens + 2 > maxLength) return null;
  const sized: SizedWorkload = { ...workload, pictureLimit, maxLength, imageShare: undefined };
  return leanestPlan(planner, sized, limits, fixed).run.budgetedBytes;
}
