/** Plans for common cards, for a question that names neither a card nor its memory. */
import { STEP_PHASES } from "../plan/dryRun/dryRun.ts";
import type { Planner, SizedPlan, SizedWorkload } from "../plan/planner.ts";
import { marginOf } from "../plan/roomToPlanFor.ts";
import { fastestOfLadder, fastestPlan, leastMemory } from "../plan/search.ts";
import { type Card, type CardName, findDevice } from "../plan/time/cards.ts";
import { isCpuSpeed } from "../plan/time/cpuSpeed.ts";
import { hiddenShare } from "../plan/time/stepTime.ts";
import { layerPolicies } from "../step/policy.ts";
import { baseName, type Question, roundedDown, wiringFor } from "./question.ts";
import { type PlanSummary, summaryOf } from "./summary.ts";

/** One for each amount of memory that many people have. */
const COMMON = [
  "rtx-4060",
  "rtx-3060-12gb",
  "rtx-4060-ti-16gb",
  "rtx-3090",
  "rtx-5090",
  "a100-80gb",
] as const satisfies CardName[];

/** Numbers of such cards that a row compares. */
const SEVERAL = [2, 4, 8] as const;

export interface CommonCards {
  /** Precision of the base in each plan of a row: as asked, then NF4 if the base is not NF4. */
  bases: string[];
  /** Numbers of cards in `several` of each row. */
  counts: number[];
  rows: CommonCard[];
}

export interface CommonCard {
  /** Name for --gpu. */
  name: string;
  totalBytes: number;
  /** By base: the fastest plan that fits, or the leanest. */
  plans: PlanSummary[];
  /** Plans for several such cards, with the base as asked. */
  several: PlanSummary[];
}

/** Plans for each common card; for several of each too, unless the question itself is about several. */
export function commonCards(question: Question, workload: SizedWorkload): CommonCards {
  const { planner, fixed, options } = question;
  const planners = [planner, ...(planner.canQuantize("nf4") ? [planner.withBases({ base: "nf4" })] : [])];
  const counts = question.alone ? [] : [...SEVERAL];
  const rows = COMMON.map((name): CommonCard => {
    const card = findDevice(name);
    const budgetBytes = roundedDown(card.memoryBytes, marginOf(card));
    const limits = { ...question.limits, budgetBytes };
    const wiring = wiringFor(options, card);
    const plans = planners.map((held) => {
      const onCard = wiring ? held.onCard(card).amongRanks(0, wiring) : held.onCard(card);
      return { onCard, plan: fastestPlan(onCard, workload, limits, fixed) };
    });
    const { onCard, plan } = plans[0]!;
    const several = onSeveral({ ...question, planner: onCard, workload, limits }, card, plan, counts);
    return {
      ...{ name, totalBytes: card.memoryBytes, several },
      plans: plans.map((each) => summaryOf({ planner: each.onCard }, each.plan)),
    };
  });
  return { bases: planners.map(baseName), counts, rows };
}

/**
 * Returns the fastest plan for each number of cards: the policy of fewer cards on each of them, or a base
 * that they share if that could be faster. Searches that start anew would need three times as many dry runs.
 */
function onSeveral(
  { planner, workload, limits, fixed, options }: Question,
  card: Card,
  alone: SizedPlan,
  counts: readonly number[],
): PlanSummary[] {
  const isSettled = fixed.policy !== undefined || fixed.weights !== undefined;
  let { policy } = alone;
  return counts.map((gpus) => {
    const ranks = planner.amongRanks(0, wiringFor({ ...options, gpus }, card)!);
    const accumulation = Math.max(gpus, workload.accumulation ?? 1); // else some have nothing to do
    const asked = { ...workload, accumulation };
    const same = ranks.plan(asked, policy, limits);
    const whole = same.fits ? same : fastestOfLadder(ranks, asked, limits, fixed);
    policy = whole?.policy ?? policy;
    const canGain = !isSettled && (!whole || couldGain(whole, ranks));
    const shared = canGain
      ? fastestOfLadder(ranks, asked, limits, { ...fixed, weights: "shared" })
      : undefined;
    const found = [whole, shared].filter((plan) => plan !== undefined);
    const [fastest] = found.toSorted((one, other) => one.stepMs - other.stepMs);
    return summaryOf({ planner: ranks }, fastest ?? leastMemory(ranks, asked, limits, fixed));
  });
}

/** Share of the copies' time that is hidden if next to nothing waits for them. */
const HIDDEN = 0.95;

/**
 * Returns whether a step could be faster with a shared base. That base needs more memory than a streamed one,
 * so it gains only where copies from the host are waited for. It needs less than a resident one, so it gains
 * only where layers are computed again.
 */
function couldGain({ policy, run }: SizedPlan, { config, speed }: Planner): boolean {
  if (policy.weights.source !== "streamed")
    return layerPolicies(policy, config).some(({ keep }) => keep !== "all");
  const ops = run.phases.filter(({ name }) => STEP_PHASES.includes(name)).map((phase) => phase.ops());
  return isCpuSpeed(speed) || (hiddenShare(ops, speed) ?? 1) < HIDDEN;
}
