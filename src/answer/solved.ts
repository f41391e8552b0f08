/** --solve: the largest value of one setting that fits, as far as the value is of use. */
import type { SizedPlan } from "../plan/planner.ts";
import { fastestPlan, leastMemory, solve, withValue } from "../plan/search.ts";
import { UNKNOWNS, type Unknown } from "../plan/solvable.ts";
import type { PlanOptions } from "./options.ts";
import type { NarrowQuestion, Question } from "./question.ts";
import { type PlanSummary, summaryOf } from "./summary.ts";

export interface Solved {
  what: NonNullable<PlanOptions["solve"]>;
  /** Bytes for "memory"; undefined if nothing fits. */
  value?: number;
  /** Whether a larger value would fit: the answer is the largest that is of use. */
  isCapped: boolean;
  /** The largest that would fit, if the answer is capped. */
  largest?: { value: number; plan: PlanSummary };
}

/** Larger ranks rarely help, and no published recipe for such models uses one. */
export const MOST_USEFUL_RANK = 256;

/**
 * Returns the largest value of a setting that is of use: as the model was trained; undefined: no such limit.
 */
export function capOf(
  { trained, options }: Pick<NarrowQuestion, "trained" | "options">,
  unknown: Unknown,
): number | undefined {
  if (options.beyond_training) return undefined;
  const caps: Partial<Record<(typeof UNKNOWNS)[Unknown]["key"], number>> = {
    maxLength: trained.maxLength,
    pictureLimit: trained.pictureLimit,
    rank: MOST_USEFUL_RANK,
  };
  return caps[UNKNOWNS[unknown].key];
}

/** Solves for a setting, and plans with what was found. */
export function solvedOf(question: Question, what: Solved["what"]): { plan: SizedPlan; solved: Solved } {
  const { planner, workload, limits, fixed } = question;
  const least = (): SizedPlan => leastMemory(planner, workload, limits, fixed);
  if (what === "memory") {
    const plan = least();
    return { plan, solved: { what, value: plan.run.budgetedBytes, isCapped: false } };
  }
  const largest = solve(planner, what, workload, limits, fixed);
  if (!largest) return { plan: least(), solved: { what, isCapped: false } };
  const cap = capOf(question, what);
  if (cap === undefined || largest.solved <= cap)
    return { plan: largest.plan, solved: { what, value: largest.solved, isCapped: false } };
  const capped = withValue(planner, workload, UNKNOWNS[what].key, cap);
  return {
    plan: fastestPlan(planner, capped, limits, fixed),
    solved: {
      ...{ what, value: cap, isCapped: true },
      largest: { value: largest.solved, plan: summaryOf(question, largest.plan) },
    },
  };
}

/** Returns the largest useful value that fits the leanest policy, and its plan; undefined if none fits. */
export function roomFor(
  question: NarrowQuestion,
  { workload }: Pick<SizedPlan, "workload">,
  unknown: Unknown,
): { value: number; isCapped: boolean; plan: SizedPlan } | undefined {
  const { planner, limits, fixed } = question;
  const cap = capOf(question, unknown);
  const from = cap === undefined ? workload : withValue(planner, workload, UNKNOWNS[unknown].key, cap); // tried first
  const largest = solve(planner, unknown, from, limits, fixed, cap);
  return largest && { value: largest.solved, isCapped: largest.solved === cap, plan: largest.plan };
}
