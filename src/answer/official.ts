/** The official recipe at the sizes of a plan. */
import { batchOf } from "../plan/dryRun/batchShapes.ts";
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
  { planner, limits }: Question,
  { workload }: SizedPlan,
  card: Card,
): OfficialSummary {
  const { rank, dropout, targets } = workload;
  const run = officialRun({
    ...{ model: planner.config, dtype: planner.dtype, mapsWeights: true, target: card },
    ...{ batch: batchOf(workload), lora: { rank, dropout, targets } },
  });
  return { deviceBytes: run.budgetedBytes, hostBytes: run.hostBytes, fits: shortage(run, limits) <= 0 };
}
