/** The steps that answer a page's question to the planner: a quick plan, the official recipe, the search. */
import { askedOf } from "../../../answer/answerOf.ts";
import { freeingChanges } from "../../../answer/freeing.ts";
import { runOfficial } from "../../../answer/official.ts";
import { waysOut } from "../../../answer/otherWays.ts";
import { leastBytes } from "../../../answer/pageFacts.ts";
import { PART_TITLES } from "../../../answer/partTitles.ts";
import { MAX_LENGTHS } from "../../../answer/planSizes.ts";
import { type Question, type QuestionTools, questionOf } from "../../../answer/question.ts";
import { fullSummaryOf, partsOf, wholeStepMs } from "../../../answer/summary.ts";
import { trainCommand, trainYaml } from "../../../answer/trainCommand.ts";
import { UserError } from "../../../errors.ts";
import { pictureFormOf } from "../../../models/families.ts";
import { type SizedPlan, shortage } from "../../../plan/planner.ts";
import { concessionsOf } from "../../../plan/policyWords.ts";
import { fastestPlan, leanestPlan } from "../../../plan/search.ts";
import { Policy } from "../../../step/policy.ts";
import { UNMEASURED } from "../../../train/machine/modelPlanner.ts";
import type { Step } from "./desk.ts";
import { pictureChoice } from "./pictureChoice.ts";
import type { MemoryPart, OfficialView, PlanQuestion, PlanReply, PlanView } from "./planApi.ts";
import { planOptionsOf } from "./planOptions.ts";

/** The quick plan of any question comes before the search of another; cells of the table come last. */
const RANKS = { quick: 0, official: 1, search: 2, ways: 3, cell: 4 };

export interface Memory {
  tools: QuestionTools;
  /** Answers that were found before, by what was asked. */
  found: Map<string, PlanReply[]>;
}

type Send = (reply: PlanReply) => void;

/** Answers kept, and official recipes; the oldest is dropped. */
const MOST_FOUND = 500;

/** Returns the steps of a plan. */
export function planSteps({ options: raw, policy }: PlanQuestion, memory: Memory, send: Send): Step[] {
  const first = (): Step[] => {
    const options = planOptionsOf(raw);
    const key = JSON.stringify(options);
    const known = memory.found.get(key);
    if (known) {
      for (const reply of known) send(reply);
      return [];
    }
    const question = questionOf(options, memory.tools);
    const replies: PlanReply[] = [];
    const keep = (reply: PlanReply): void => {
      replies.push(reply);
      send(reply);
    };
    keep({ kind: "pictures", pictures: pictureChoice(pictureFormOf(question.planner.config).limit) });
    quickPlan(question, policy, send);
    return [
      ...officialStep(question, memory, keep),
      searchStep(question, keep, () => remember(memory, key, replies)),
    ];
  };
  return [{ rank: RANKS.quick, run: first }];
}

/** Returns the steps of the table of sizes: a cell each, those near the asked sizes first. */
export function sizeSteps({ options: raw }: PlanQuestion, { tools }: Memory, send: Send): Step[] {
  const first = (): Step[] => {
    const question = questionOf(planOptionsOf(raw), tools);
    const { pictureLimit, maxLength } = question.workload;
    const { usual } = pictureFormOf(question.planner.config).limit;
    const away = (cell: { pictureLimit: number; maxLength: number }): number =>
      Math.abs(Math.log2(cell.pictureLimit / pictureLimit)) + Math.abs(Math.log2(cell.maxLength / maxLength));
    const cells = usual.flatMap((limit) =>
      MAX_LENGTHS.map((length) => ({ pictureLimit: limit, maxLength: length })),
    );
    return cells
      .toSorted((one, other) => away(one) - away(other))
      .map((cell) => ({
        rank: RANKS.cell,
        run: () => {
          send({ kind: "cell", ...cell, bytes: leastBytes(question, question.workload, cell) });
          return undefined;
        },
      }));
  };
  return [{ rank: RANKS.official, run: first }];
}

/** Returns the step that finds what frees memory under the policy of a run. */
export function freeingSteps({ options: raw, policy }: PlanQuestion, { tools }: Memory, send: Send): Step[] {
  const run = (): undefined => {
    const question = questionOf(planOptionsOf(raw), { ...tools, isRecorded: true });
    const { planner, workload, limits, fixed } = question;
    const shown = policyFor(question, policy);
    const plan = shown
      ? planner.plan(workload, shown, limits)
      : (leanestPlan(planner, workload, limits, fixed) as SizedPlan);
    send({ kind: "frees", changes: freeingChanges(question, plan) });
    return undefined;
  };
  return [{ rank: RANKS.ways, run }];
}

/**
 * Plans for the policy that the page shows. If it does not fit, without the layers that it keeps, because a
 * fast policy fills its memory with them; and if that does not fit, for the leanest policy.
 */
function quickPlan(question: Question, shown: unknown, send: Send): void {
  const { planner, workload, limits, fixed } = question;
  const policy = policyFor(question, shown);
  for (const kept of policy ? [policy, keepingNothing(policy)] : []) {
    const plan = planner.plan(workload, kept, limits);
    if (!plan.fits) continue;
    send({ kind: "plan", stage: "kept", plan: viewOf(question, plan) });
    return;
  }
  const leanest = leanestPlan(planner, workload, limits, fixed) as SizedPlan;
  send({ kind: "plan", stage: "leanest", plan: viewOf(question, leanest) });
}

function keepingNothing(policy: Policy): Policy {
  return { ...policy, layers: policy.layers.map((layers) => ({ ...layers, keep: "nothing" })) };
}

/** Returns the policy as this question allows it; undefined if it is not possible for this model. */
function policyFor({ planner, fixed }: Question, shown: unknown): Policy | undefined {
  const parsed = Policy.safeParse(shown);
  if (!parsed.success) return undefined;
  const { weights, attention } = fixed;
  const policy = {
    ...parsed.data,
    ...(weights && { weights: { ...parsed.data.weights, source: weights } }),
    ...(attention && { attention }),
  };
  try {
    planner.check(policy);
    return policy;
  } catch (thrown) {
    if (thrown instanceof UserError) return undefined;
    throw thrown;
  }
}

function officialStep(question: Question, memory: Memory, send: Send): Step[] {
  const { card, workload, planner, limits } = question;
  if (!card) return [];
  const run = (): undefined => {
    const key = JSON.stringify([
      "official",
      planner.config,
      planner.dtype,
      card.name,
      limits.budgetBytes,
      workload,
    ]);
    const known = memory.found.get(key);
    if (known) {
      for (const reply of known) send(reply);
      return undefined;
    }
    const official = runOfficial(question, { workload }, card);
    const view: OfficialView = {
      deviceBytes: official.budgetedBytes,
      fits: shortage(official, limits) <= 0,
      parts: partList(partsOf(question, { run: official })),
    };
    const reply: PlanReply = { kind: "official", official: view };
    remember(memory, key, [reply]);
    send(reply);
    return undefined;
  };
  return [{ rank: RANKS.official, run }];
}

function searchStep(question: Question, send: Send, done: () => void): Step {
  const { planner, workload, limits, fixed } = question;
  return {
    rank: RANKS.search,
    run: () => {
      const plan = fastestPlan(planner, workload, limits, fixed);
      send({ kind: "plan", stage: "fastest", plan: viewOf(question, plan) });
      if (!plan.fits) return [waysStep(question, plan, send, done)];
      done();
      return undefined;
    },
  };
}

function waysStep(question: Question, plan: SizedPlan, send: Send, done: () => void): Step {
  return {
    rank: RANKS.ways,
    run: () => {
      send({ kind: "ways", ways: waysOut(question, plan) });
      done();
      return undefined;
    },
  };
}

function remember({ found }: Memory, key: string, replies: PlanReply[]): void {
  found.set(key, replies);
  for (const oldest of found.keys()) if (found.size > MOST_FOUND) found.delete(oldest);
}

function viewOf(question: Question, plan: SizedPlan): PlanView {
  const summary = fullSummaryOf(question, plan);
  const asked = askedOf(question);
  const { limits, device } = asked;
  const { ranks } = question.planner;
  const isTimed = question.planner.speed !== UNMEASURED;
  return {
    ...{ fits: plan.fits, deviceBytes: summary.deviceBytes, hostBytes: summary.hostBytes },
    parts: partList(summary.parts),
    ...(limits.deviceBytes !== undefined && { limitBytes: limits.deviceBytes }),
    ...(limits.hostBytes !== undefined && { hostLimitBytes: limits.hostBytes }),
    ...{
      device: ranks > 1 ? `each of ${ranks} ${question.device}` : question.device,
      isCard: device.kind === "card",
    },
    ...{ workload: plan.workload, policy: plan.policy, tokens: summary.tokens },
    measures: concessionsOf(plan.policy, question.planner.config, {
      where: device.kind === "card" ? "on the host" : "in the host's part of the memory",
    }),
    ...(isTimed && { stepMs: wholeStepMs(summary) }),
    ...{ command: trainCommand({ asked, plan: summary }), yaml: trainYaml({ asked, plan: summary }) },
  };
}

/** Returns the parts that hold something, by the order of their names. */
function partList(parts: Record<string, number>): MemoryPart[] {
  return Object.keys(PART_TITLES).flatMap((name) => {
    const bytes = parts[name] ?? 0;
    return bytes > 0 ? [{ name, title: PART_TITLES[name] ?? name, bytes }] : [];
  });
}

/** Returns the questions that a page may ask, by the name of their route. */
export const STEPS = { plan: planSteps, sizes: sizeSteps, frees: freeingSteps } as const;
export type Asking = keyof typeof STEPS;
