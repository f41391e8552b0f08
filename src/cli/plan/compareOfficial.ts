/** The official schedule beside lorafit's rungs: where the memory goes, and what each step down saves. */

import { formatBytes, UsageError } from "../../errors.ts";
import { batchOf } from "../../plan/dryRun/batchShapes.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { officialRun } from "../../plan/dryRun/officialRun.ts";
import type { Plan } from "../../plan/planner.ts";
import { concessionsOf } from "../../plan/policyWords.ts";
import { bar, table } from "../output/output.ts";
import { alternativesOf } from "./answer.ts";
import type { Question } from "./question.ts";
import { elsewhere, gib, signed } from "./words.ts";

const BAR_COLUMNS = 30;

/** The official recipe's own plan for a workload. Throws UserError for the CPU, which the official script does not train on. */
export function officialOf({ planner, card }: Question, { workload }: Plan): DryRun {
  if (!card) {
    throw new UsageError(
      "The official recipe trains on a GPU, so --compare official needs one to compare on.",
      {
        fix: "Pass --gpu or --memory, and leave --device cpu out.",
      },
    );
  }
  const { rank, dropout, targets } = workload;
  return officialRun({
    ...{ model: planner.config, dtype: planner.dtype, mapsWeights: true, target: card },
    ...{ batch: batchOf(workload), lora: { rank, dropout, targets } },
  });
}

/** Each schedule with its memory and what it saves against the one before. */
export function savings(
  question: Question,
  plan: Plan,
  official: DryRun,
): { what: string; bytes: number; savedBytes: number }[] {
  const rungs = alternativesOf(question, plan);
  const steps = [
    {
      what: "official recipe: gradient checkpointing, all logits in float32, everything on the card",
      run: official,
    },
    ...rungs.map((rung, index) => ({ what: changeOf(rungs[index - 1], rung, question), run: rung.run })),
  ];
  return steps.map(({ what, run }, index) => {
    const before = steps[index - 1]?.run.budgetedBytes ?? run.budgetedBytes;
    return { what, bytes: run.budgetedBytes, savedBytes: before - run.budgetedBytes };
  });
}

/** Which of our measures saves how much of what the official schedule takes, step by step. */
export function comparisonText(question: Question, plan: Plan, official: DryRun): string {
  const rows = savings(question, plan, official);
  const most = Math.max(...rows.map(({ bytes }) => bytes));
  const { budgetBytes } = question.limits;
  const verdict = Number.isFinite(budgetBytes)
    ? `, which ${official.budgetedBytes <= budgetBytes ? "fits" : "does not fit"} ${formatBytes(budgetBytes)}`
    : "";
  return [
    `The official recipe's schedule takes ${formatBytes(official.budgetedBytes)} at the same sizes${verdict}. Step by step:`,
    table(
      rows.map(({ what, bytes, savedBytes }, index) => [
        `  ${gib(bytes)}`,
        index === 0 ? "" : signed(-savedBytes).padStart(10),
        bar(bytes / most, BAR_COLUMNS).padEnd(BAR_COLUMNS),
        what,
      ]),
    ),
  ].join("\n");
}

/** What a rung gives up that the one before did not. */
function changeOf(before: Plan | undefined, rung: Plan, question: Question): string {
  if (!before) return "lorafit: attention and MLP apart, logits in parts, no second copies of gradients";
  return (
    concessionsOf(rung.policy, question.planner.config, {
      beyond: before.policy,
      where: elsewhere(question).where,
    }).join("; ") || "smaller parts of the loss and of pictures"
  );
}
