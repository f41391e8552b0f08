/** The official recipe at the sizes of a plan. */
import { pictureFormOf } from "../models/families.ts";
import { batchOf } from "../plan/dryRun/batchShapes.ts";
import type { DryRun } from "../plan/dryRun/dryRun.ts";
import { officialRun } from "../plan/dryRun/officialRun.ts";
import { type SizedPlan, shortage } from "../plan/planner.ts";
import type { Card } from "../plan/time/cards.ts";
import type { Question } from "./question.ts";

export interface OfficialSummary {
  deviceBytes: number;
  hostBytes: number;
  fits: boolean;
}

/** Plans the official recipe at the same sizes on a card. */
export function officialOf(
  question: Question,
  plan: Pick<SizedPlan, "workload">,
  card: Card,
): OfficialSummary {
  const run = runOfficial(question, plan, card);
  const fits = shortage(run, question.limits) <= 0;
  return { deviceBytes: run.budgetedBytes, hostBytes: run.hostBytes, fits };
}

/** Runs a step of the official recipe at the sizes of a plan, without data. */
export function runOfficial(
  { planner }: Pick<Question, "planner">,
  { workload }: Pick<SizedPlan, "workload">,
  card: Card,
): DryRun {
  const { rank, dropout, targets } = workload;
  return officialRun({
    ...{ model: planner.config, dtype: planner.dtype, mapsWeights: true, target: card },
    ...{ batch: batchOf(workload, pictureFormOf(planner.config)), lora: { rank, dropout, targets } },
  });
}
