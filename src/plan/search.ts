/**
 * Searches for the fastest policy that fits, the least memory, or the largest value of one setting that fits.
 * The memory, the card and the user's fixed choices are given.
 */

import { pictureFormOf } from "../models/families.ts";
import type { PloraWay } from "../nn/plora.ts";
import { type LayerPolicy, layerPolicies, type Policy, ploraName, ploraOf } from "../step/policy.ts";
import { DIALOGUE_TOKENS } from "./dryRun/batchShapes.ts";
import type { DryRun } from "./dryRun/dryRun.ts";
import { type FixedPolicy, keepingLayers, leanestPolicies, policyLadder } from "./ladder.ts";
import { largestBelowGaps, largestThatFits } from "./largestThatFits.ts";
import {
  type Limits,
  type Plan,
  type Planner,
  type SizedPlan,
  type SizedWorkload,
  shortage,
  type Workload,
} from "./planner.ts";
import { UNKNOWNS, type Unknown } from "./solvable.ts";

/** The part of the policy that the user has fixed. */
export interface Fixed extends FixedPolicy {
  policy?: Policy | undefined;
}

/** Plans every rung of the ladder, or only the given policy if there is one. */
export function planRungs<Asked extends Workload>(
  planner: Planner,
  workload: Asked,
  limits: Limits,
  fixed: Fixed,
): Plan<Asked>[] {
  return laddersOf(planner, fixed).flatMap((ladder) => rungsOf(planner, workload, limits, ladder));
}

function rungsOf<Asked extends Workload>(
  planner: Planner,
  workload: Asked,
  limits: Limits,
  fixed: Fixed,
): Plan<Asked>[] {
  const policies = fixed.policy ? [fixed.policy] : policyLadder(planner.configOfRank, fixed);
  return policies.map((policy) => planner.plan(workload, policy, limits));
}

/**
 * Returns the choices that ladders start from: several ranks may also share the base, unless that is settled.
 */
function laddersOf({ ranks, rowSharers }: Planner, fixed: Fixed): Fixed[] {
  const { policy, weights, places, folded } = fixed;
  const isSettled = [policy, weights, places].some((part) => part !== undefined) || folded === true;
  return ranks === 1 || rowSharers > 1 || isSettled ? [fixed] : [fixed, { ...fixed, weights: "shared" }];
}

/** Returns the fastest policy that fits; if none fits, the one that comes nearest. */
export function fastestPlan<Asked extends Workload>(
  planner: Planner,
  workload: Asked,
  limits: Limits,
  fixed: Fixed = {},
): Plan<Asked> {
  // each ladder by itself: what fits beside the weights decides which is faster in the end
  const found = laddersOf(planner, fixed).flatMap(
    (ladder) => fastestOfLadder(planner, workload, limits, ladder) ?? [],
  );
  const [fastest] = found.toSorted((one, other) => one.stepMs - other.stepMs);
  return fastest ?? leastMemory(planner, workload, limits, fixed);
}

/**
 * Returns the fastest policy that fits among those that start from the fixed choices; undefined if none fits.
 * It shares the base with other ranks only if that is fixed.
 */
export function fastestOfLadder<Asked extends Workload>(
  planner: Planner,
  workload: Asked,
  limits: Limits,
  fixed: Fixed,
): Plan<Asked> | undefined {
  const fitting = rungsOf(planner, workload, limits, fixed).filter(({ fits }) => fits);
  if (fitting.length === 0) return undefined;
  if (fixed.policy) return fitting[0]!;
  const fetching = changedWhereFaster(planner, fitting, limits, (policy) => fetchingAhead(policy, planner));
  return keepWhatFits(planner, withFastestPlora(planner, [fetching, ...fitting], limits, fixed), limits);
}

/**
 * Returns the fastest plan that fits, with PLoRA handled in the fastest way that fits. In a run whose model
 * is loaded, only the ways that its loading allows are tried.
 */
function withFastestPlora<Asked extends Workload>(
  planner: Planner,
  fitting: readonly Plan<Asked>[],
  limits: Limits,
  fixed: Fixed,
): Plan<Asked> {
  const having = (best: readonly Plan<Asked>[], folded: boolean, branch: PloraWay): Plan<Asked> =>
    changedWhereFaster(planner, [...best, ...fitting], limits, (policy) =>
      folded && !planner.folds(policy) ? undefined : { ...policy, plora: ploraName({ folded, branch }) },
    );
  const merging = having([], fixed.folded ?? false, "merged");
  if (fixed.folded !== undefined) return merging;
  const folding = having([merging], true, "apart");
  return ploraOf(folding.policy).folded ? having([folding], true, "merged") : merging;
}

/**
 * Returns the fastest plan that fits, with a change applied if the change fits and is faster. The time that
 * the change saves depends on shapes, and is nearly the same for every policy that allows it. Therefore the
 * first policy that has room for the change is the fastest.
 */
function changedWhereFaster<Asked extends Workload>(
  planner: Planner,
  fitting: readonly Plan<Asked>[],
  limits: Limits,
  change: (policy: Policy) => Policy | undefined,
): Plan<Asked> {
  const byTime = fitting.toSorted((one, other) => one.stepMs - other.stepMs);
  const fastest = byTime[0]!;
  for (const { workload, policy } of byTime) {
    const changed = change(policy);
    if (!changed) continue;
    const plan = planner.plan(workload, changed, limits);
    if (plan.stepMs >= fastest.stepMs) break;
    if (plan.fits) return plan;
  }
  return fastest;
}

/**
 * Returns the policy with each layer's input copied from the host one layer ahead of its backward pass;
 * undefined if no input lies on the host.
 */
function fetchingAhead(policy: Policy, { config }: Planner): Policy | undefined {
  const isOnHost = layerPolicies(policy, config).some(({ boundary }) => boundary === "host");
  return isOnHost ? { ...policy, boundaryAhead: true } : undefined;
}

/**
 * Returns the policy that needs the least device memory within the host's limit. If every policy exceeds the
 * host's limit, it chooses among all.
 */
export function leastMemory<Asked extends Workload>(
  planner: Planner,
  workload: Asked,
  limits: Limits,
  fixed: Fixed = {},
): Plan<Asked> {
  const lean = leanest(planner, limits, fixed).map((policy) => planner.plan(workload, policy, limits));
  const all = [...planRungs(planner, workload, limits, fixed), ...lean];
  const beside = { ...limits, budgetBytes: Number.POSITIVE_INFINITY };
  const possible = all.filter(({ run }) => shortage(run, beside) <= 0);
  const leanestOf = (plans: readonly Plan<Asked>[], bytesOf: (run: DryRun) => number): Plan<Asked> =>
    plans.reduce((best, plan) => (bytesOf(plan.run) < bytesOf(best.run) ? plan : best));
  if (possible.length > 0) return leanestOf(possible, ({ budgetedBytes }) => budgetedBytes);
  const isShared = limits.sumBytes !== undefined; // then both pools together are too large
  return leanestOf(all, ({ budgetedBytes, machineBytes }) => (isShared ? machineBytes : budgetedBytes));
}

/**
 * Returns the largest value of one setting that fits, and its plan; undefined if not even the least value
 * fits.
 */
export function solve(
  planner: Planner,
  unknown: Unknown,
  workload: SizedWorkload,
  limits: Limits,
  fixed: Fixed = {},
  most: number = rangeOf(planner, unknown).most,
): { solved: number; plan: SizedPlan } | undefined {
  const { key } = UNKNOWNS[unknown];
  const { least } = rangeOf(planner, unknown);
  let best: { solved: number; plan: SizedPlan } | undefined;
  for (const policy of leanest(planner, limits, fixed)) {
    const at = (value: number): SizedPlan =>
      planner.plan(withValue(planner, workload, key, value), policy, limits);
    const from = best ? best.solved + 1 : least;
    if (from > most) break;
    if (best && !at(Math.min(most, Math.ceil(from * NEAR))).fits) continue;
    const solved = largestBelowGaps((value) => shortage(at(value).run, limits), {
      ...{ least: from, most, from: best ? 2 * from : workload[key] },
    });
    if (solved !== undefined) best = { solved, plan: at(solved) };
    if (best && !isShortOfHost(best.plan, limits)) break;
  }
  return best;
}

/** Returns the values that a search tries. Those of pictures depend on the form of the model's pictures. */
function rangeOf({ config }: Planner, unknown: Unknown): { least: number; most: number } {
  const { key, least, most } = UNKNOWNS[unknown];
  return key === "pictureLimit" ? pictureFormOf(config).limit.range : { least, most };
}

/** Another policy must be better by this factor to be worth the search. */
const NEAR = 1.02;

/** Tells whether a little more would exceed the host, while the device has room. */
function isShortOfHost({ run }: Plan, limits: Limits): boolean {
  return shortage(run, limits) > run.budgetedBytes / limits.budgetBytes - 1;
}

/** Plans a workload under the leanest policy, however much memory the host has. */
export function leanestPlan(planner: Planner, workload: Workload, limits: Limits, fixed: Fixed): Plan {
  return planner.plan(
    workload,
    leanest(planner, { budgetBytes: limits.budgetBytes, hostBytes: Number.POSITIVE_INFINITY }, fixed)[0]!,
    limits,
  );
}

/**
 * Returns the leanest policies. Without a limit on the host there is one; with a limit, it depends which lets
 * the most fit.
 */
function leanest(planner: Planner, { hostBytes, sumBytes }: Limits, fixed: Fixed): Policy[] {
  if (fixed.policy) return [fixed.policy];
  const policies = laddersOf(planner, fixed).flatMap((ladder) =>
    leanestPolicies(planner.configOfRank, ladder),
  );
  const isLimited = Number.isFinite(hostBytes) || sumBytes !== undefined;
  return isLimited ? policies : policies.slice(0, 1);
}

/**
 * Sets one size of a workload. A larger limit of pictures also makes the sample as long as its largest
 * picture and a dialogue.
 */
export function withValue(
  { config }: Pick<Planner, "config">,
  workload: SizedWorkload,
  key: (typeof UNKNOWNS)[Unknown]["key"],
  value: number,
): SizedWorkload {
  if (key !== "pictureLimit") return { ...workload, [key]: value };
  const { tokens } = pictureFormOf(config).largest(value);
  return {
    ...workload,
    pictureLimit: value,
    maxLength: Math.max(workload.maxLength, tokens + DIALOGUE_TOKENS),
  };
}

/**
 * Uses the remaining room for layers that are not computed again: as many as fit, in the fastest of the ways
 * to keep them.
 */
function keepWhatFits<Asked extends Workload>(
  planner: Planner,
  plan: Plan<Asked>,
  limits: Limits,
): Plan<Asked> {
  const { config } = planner;
  const keeping = (before: Plan<Asked>, keep: LayerPolicy["keep"]): Plan<Asked> => {
    const at = (count: number): Plan<Asked> =>
      planner.plan(before.workload, keepingLayers(before.policy, config, count, keep), limits);
    const short = (layers: number): number => shortage((layers === 0 ? before : at(layers)).run, limits);
    const count = largestThatFits(short, { least: 0, most: config.layers, from: 1 });
    return count ? at(count) : before;
  };
  const attention = keeping(plan, "attention");
  return [plan, keeping(plan, "all"), attention, keeping(attention, "all")].reduce(faster);
}

function faster<Asked extends Workload>(one: Plan<Asked>, other: Plan<Asked>): Plan<Asked> {
  return other.stepMs < one.stepMs ? other : one;
}
