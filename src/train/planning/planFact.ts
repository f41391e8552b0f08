/** The plan of a run as a fact: plain data for the terminal, a page or a log. */
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import type { Limits, Planner } from "../../plan/planner.ts";
import { concessionsOf } from "../../plan/policyWords.ts";
import type { Category } from "../../torch/device.ts";
import type { Demand } from "../data/memoryDemand.ts";
import type { NamedSample, PlanFact, PlannedEvaluation, PlannedMemory } from "../facts/runFact.ts";
import type { AnswersPlan, PlannedAnswer } from "./answerPlan.ts";
import { forwardOnly, type LossPlan } from "./evalLossPlan.ts";
import type { RunPlanning } from "./planRun.ts";
import type { RunPlan } from "./policyByLength.ts";

/** Returns what was planned as plain data. limits: of the run, also if the policy is the user's. */
export function planFact(planned: RunPlanning & { demand: Demand; planner: Planner }): PlanFact {
  const { plan, demand, limits, losses } = planned;
  const { gradientCopy } = plan;
  return {
    fact: "plan",
    limits: limits ? limitsFact(limits) : {},
    mostTokens: demand.mostTokens,
    longest: named(demand.longest),
    ...stepFact(planned),
    ...(gradientCopy && { gradientCopy }),
    policies: plan.policies.map(({ upToTokens, policy }) => ({
      upToTokens: Number.isFinite(upToTokens) ? upToTokens : null,
      policy,
    })),
    ...(losses && { evaluation: evaluationFact(planned, losses) }),
  };
}

function limitsFact({ budgetBytes, hostBytes }: Limits): PlanFact["limits"] {
  return {
    ...(Number.isFinite(budgetBytes) && { deviceBytes: budgetBytes }),
    ...(Number.isFinite(hostBytes) && { hostBytes }),
  };
}

function stepFact({
  plan: { longest },
  planner,
}: {
  plan: RunPlan;
  planner: Planner;
}): Pick<PlanFact, "step"> {
  if (!longest) return {};
  const { run, policy, stepMs } = longest;
  const concessions = concessionsOf(policy, planner.config, { mapped: run.mappedParts });
  return { step: { ...memoryOf(run), microBatchMs: stepMs, concessions } };
}

function evaluationFact(
  { plan, planner, answers }: { plan: RunPlan; planner: Planner; answers: AnswersPlan | undefined },
  { largest, least, left, kept }: LossPlan,
): PlannedEvaluation {
  const beyond = forwardOnly(plan.policy);
  return {
    samples: kept.length,
    ...(largest && {
      loss: {
        ...plannedSample(largest),
        concessions: concessionsOf(largest.policy, planner.config, { beyond }),
      },
    }),
    ...(answers?.most && { answer: plannedSample(answers.most) }),
    ...(least && { skipped: { count: left.length, smallest: plannedSample(least) } }),
    ...(answers?.least && {
      unanswered: { count: answers.left, total: answers.count, smallest: plannedSample(answers.least) },
    }),
  };
}

function plannedSample({ sample, run }: PlannedAnswer): NamedSample & PlannedMemory {
  return { ...named(sample), ...memoryOf(run) };
}

function named({ source, tokens }: PlannedAnswer["sample"]): NamedSample {
  return { sample: source, tokens };
}

function memoryOf({ budgetedBytes, device, host, mappedBytes }: DryRun): PlannedMemory {
  return {
    limitedBytes: budgetedBytes,
    deviceBytes: device.peakBytes,
    hostBytes: host.peakBytes,
    mappedBytes,
    byCategory: held(device.categories),
  };
}

/** Returns the categories that hold something. */
export function held(categories: Record<Category, number>): Partial<Record<Category, number>> {
  return Object.fromEntries(Object.entries(categories).filter(([, bytes]) => bytes > 0));
}
