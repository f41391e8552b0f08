/** The official recipe at the sizes of a plan. */
import { UsageError } from "../../../errors.ts";
import { batchOf } from "../../../plan/dryRun/batchShapes.ts";
import { officialRun } from "../../../plan/dryRun/officialRun.ts";
import { type Plan, shortage } from "../../../plan/planner.ts";
import type { Question } from "../question.ts";

export interface OfficialSummary {
  deviceBytes: number;
  hostBytes: number;
  fits: boolean;
}

/** Plans the official recipe at the same sizes. Throws UsageError for the CPU, which the official script does not train on. */
export function officialOf({ planner, card, limits }: Question, { workload }: Plan): OfficialSummary {
  if (!card)
    throw new UsageError(
      "--compare official needs a GPU to compare on: the official recipe does not train on a CPU.",
      { fix: "Pass --gpu or --memory, and leave --device cpu out." },
    );
  const { rank, dropout, targets } = workload;
  const run = officialRun({
    ...{ model: planner.config, dtype: planner.dtype, mapsWeights: true, target: card },
    ...{ batch: batchOf(workload), lora: { rank, dropout, targets } },
  });
  return { deviceBytes: run.budgetedBytes, hostBytes: run.hostBytes, fits: shortage(run, limits) <= 0 };
}
