/**
 * Makes the error for a sample whose loss does not fit in an evaluation: the memory it needs, and what would
 * fit.
 */
import { describeSource } from "../../data/samples/badSamples.ts";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import { batchOf } from "../../plan/dryRun/batchShapes.ts";
import { policyLadder } from "../../plan/ladder.ts";
import { largestThatFits } from "../../plan/largestThatFits.ts";
import type { Policy } from "../../step/policy.ts";
import { forwardOnly, type LossPlan } from "./evalLossPlan.ts";
import { type RunPlan, workloadOf } from "./policyByLength.ts";
import {
  lowerLimitFor,
  type Misfit,
  shareOfPictures,
  TooLittleMemoryError,
  toFit,
} from "./tooLittleMemory.ts";

/** Returns the error, and throws nothing. `losses` has at least one that does not fit. */
export async function lossTooLarge(
  losses: LossPlan,
  plan: RunPlan,
  misfit: Misfit,
): Promise<TooLittleMemoryError> {
  const { limits } = misfit;
  const { sample, run, policy } = losses.least!;
  const tokens = longestThatFits(losses, plan, policy, misfit);
  const lower = tokens === undefined ? undefined : await lowerLimitFor(sample, tokens, misfit);
  const other = policyForBoth(losses, misfit);
  const all = losses.left.length + losses.kept.length;
  const most = tokens === undefined ? "" : ` Samples like it fit up to ${formatCount(tokens)} tokens.`;
  return new TooLittleMemoryError(
    `${formatBytes(limits.budgetBytes)} is too little to evaluate ${describeSource(sample.source)}: it has ${formatCount(sample.tokens)} tokens, and its loss needs at least ${formatBytes(run.budgetedBytes)} with what the run holds.${most}`,
    toFit(run, limits, [
      ...(other ? [`--policy '${JSON.stringify(other)}'  (has room for it, and trains slower)`] : []),
      ...(lower === undefined ? [] : [lower]),
      ...(losses.kept.length === 0
        ? []
        : [`--skip-bad  (leaves out ${losses.left.length} of the evaluation's ${plural(all, "sample")})`]),
    ]),
    { misfit, neededBytes: run.budgetedBytes },
  );
}

/**
 * Returns the most tokens that a sample with the same share of pictures and no more labels may have, under
 * one policy.
 */
function longestThatFits(
  losses: LossPlan,
  plan: RunPlan,
  policy: Policy,
  { planner, limits }: Misfit,
): number | undefined {
  const { sample } = losses.least!;
  const form = pictureFormOf(planner.config);
  const imageShare = shareOfPictures(sample);
  const most = losses.demand.shapeOf(sample.tokens).labelTokens;
  const fits = (tokens: number): boolean => {
    const shape = batchOf({ maxLength: tokens, pictureLimit: 0, imageShare, batchSize: 1 }, form);
    return plan.loss({ ...shape, labelTokens: Math.min(most, shape.labelTokens) }, policy, limits).fits;
  };
  return largestThatFits((tokens) => (fits(tokens) ? -1 : 1), {
    ...{ least: 2, most: sample.tokens - 1, from: sample.tokens >> 1, parts: 64 },
  });
}

/** Returns the fastest policy under which both the longest micro-batch and the loss fit. */
function policyForBoth({ demand, least }: LossPlan, misfit: Misfit): Policy | undefined {
  const { planner, workload, limits, fixed } = misfit;
  const training = workloadOf(workload, misfit.demand.shapeOf(misfit.demand.mostTokens));
  const evaluating = workloadOf(workload, demand.shapeOf(least!.sample.tokens));
  return policyLadder(planner.configOfRank, fixed).find(
    (policy) =>
      planner.loss(evaluating, forwardOnly(policy), limits).fits &&
      planner.plan(training, policy, limits).fits,
  );
}
