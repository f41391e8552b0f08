/** Facts about several ranks: their memory, the link, and what they buy beside one card. */
import { STEP_PHASES } from "../plan/dryRun/dryRun.ts";
import type { Planner, SizedPlan } from "../plan/planner.ts";
import { fastestOfLadder, fastestPlan, leastMemory } from "../plan/search.ts";
import type { Link } from "../plan/time/links/links.ts";
import { linkBytesOf } from "../plan/time/stepTime.ts";
import { isUnlimited, type Question } from "./question.ts";
import { roomFor } from "./solved.ts";
import { type PlanSummary, summaryOf, UPDATE } from "./summary.ts";

export interface RanksSummary {
  /** Ranks of all machines. */
  count: number;
  perMachine: number;
  /** Link between the cards of a machine, and between machines. */
  link: JoiningLink;
  network?: JoiningLink;
  /** Memory of each rank, by rank. */
  perRank: { peakBytes: number; hostPeakBytes: number }[];
  /** Bytes that a rank sends to others in a step. */
  linkBytes: number;
  /** One process by itself, then the ways of using all ranks, if there is a limit that plans fit. */
  ways: RanksWay[];
}

export interface JoiningLink extends Pick<Link, "name" | "bytesPerSecond" | "source"> {
  /** Whether the user named it. */
  isGiven: boolean;
}

/** One way of using the ranks, or one process by itself. */
export interface RanksWay {
  name: WayName;
  /** The fastest plan that fits, or the leanest if none does. */
  plan: PlanSummary;
  /** The longest sample that fits and is of use; undefined if none fits. */
  maxLength?: { value: number; isCapped: boolean };
  /** The least device memory of a rank. */
  leastBytes: number;
}

/**
 * alone: one process. whole: each rank holds the base. rows: ranks share the rows of a sample. shared: each
 * rank holds a share of the base.
 */
export type WayName = "alone" | "whole" | "rows" | "shared";

type Source = Question["fixed"]["weights"];

/** Returns the facts about the ranks of a question; undefined for one process. */
export function ranksOf(question: Question, plan: SizedPlan): RanksSummary | undefined {
  const { planner, alone, options } = question;
  const { wiring } = planner;
  if (!wiring || !alone) return undefined;
  const { count, perMachine, link, network } = wiring;
  const given = (options.link ?? "").toLowerCase().split(",");
  const joining = ({ name, bytesPerSecond, source }: Link): JoiningLink => {
    const isGiven = given.some((text) => {
      const word = text.trim();
      return word === name.toLowerCase() || (word === "nvlink" && name.startsWith(word));
    });
    return { name, bytesPerSecond, source, isGiven };
  };
  return {
    ...{ count, perMachine, link: joining(link) },
    ...(network && { network: joining(network) }),
    perRank: memoryByRank(question, plan),
    linkBytes: linkBytesOfStep(plan, planner),
    ways: isUnlimited(question) ? [] : waysOf(question, alone),
  };
}

function waysOf(question: Question, alone: Planner): RanksWay[] {
  const { planner, fixed } = question;
  const whole = planner.sharingRows(1);
  const isFixed = fixed.policy !== undefined || (fixed.weights !== undefined && fixed.weights !== "shared");
  const sources: Source[] = isFixed ? [fixed.weights] : ["resident", "streamed"];
  return [
    wayOf(question, "alone", alone, sources),
    wayOf(question, "whole", whole, sources),
    ...(planner.rowSharers > 1 ? [wayOf(question, "rows", planner, [fixed.weights])] : []),
    ...(isFixed ? [] : [wayOf(question, "shared", whole, ["shared"])]),
  ];
}

/**
 * Plans each rank that can differ: one of those that share the rows of a sample, which have other rows, tiles
 * and labels each. All others need the same, because each may get the longest micro-batch, shares of the base
 * are padded to equal sizes, and buckets of gradients are alike.
 */
function memoryByRank({ planner, limits }: Question, plan: SizedPlan): RanksSummary["perRank"] {
  const { ranks, rowSharers } = planner;
  const sharers = Array.from({ length: rowSharers }, (_, rank) =>
    memoryOf(rowSharers === 1 ? plan : planner.asRank(rank).plan(plan.workload, plan.policy, limits)),
  );
  return Array.from({ length: ranks }, (_, rank) => sharers[rank % rowSharers]!);
}

function memoryOf({ run }: SizedPlan): RanksSummary["perRank"][number] {
  return { peakBytes: run.budgetedBytes, hostPeakBytes: run.host.peakBytes };
}

/** Returns the bytes that a rank sends in a step: for its micro-batches, and for the sum of gradients. */
export function linkBytesOfStep({ run, workload }: SizedPlan, { atOnce }: Planner): number {
  const microBatches = Math.ceil((workload.accumulation ?? 1) / atOnce);
  return run.phases.reduce((sum, phase) => {
    const times = STEP_PHASES.includes(phase.name) ? microBatches : phase.name === UPDATE ? 1 : 0;
    return times === 0 ? sum : sum + times * linkBytesOf(phase.ops());
  }, 0);
}

/**
 * Plans for the fastest of the weights' sources that fit, from the device and from the host together too; the
 * longest sample may have another one.
 */
function wayOf(question: Question, name: WayName, planner: Planner, sources: readonly Source[]): RanksWay {
  const { workload, limits } = question;
  const all = sources.map((weights) => ({ ...question.fixed, weights }));
  const both = all.length > 1 ? fastestOfLadder(planner, workload, limits, question.fixed) : undefined;
  const plans = [
    ...(both ? [both] : []),
    ...all.map((fixed) => fastestPlan(planner, workload, limits, fixed)),
  ];
  const isBetter = (one: SizedPlan, other: SizedPlan): boolean =>
    one.fits === other.fits ? one.stepMs < other.stepMs : one.fits;
  const plan = plans.reduce((best, one) => (isBetter(one, best) ? one : best));
  const rooms = all.flatMap((fixed) => roomFor({ ...question, planner, fixed }, plan, "max-length") ?? []);
  const room = rooms.toSorted((one, other) => other.value - one.value)[0];
  return {
    name,
    plan: summaryOf({ planner }, plan),
    ...(room && { maxLength: { value: room.value, isCapped: room.isCapped } }),
    leastBytes: Math.min(
      ...all.map((fixed) => leastMemory(planner, workload, limits, fixed).run.budgetedBytes),
    ),
  };
}
