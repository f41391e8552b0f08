/** Answers a question of `lorafit plan`: the only place of the command that searches. */
import { pictureFormOf } from "../models/families.ts";
import type { SizedPlan } from "../plan/planner.ts";
import { fastestPlan, leastMemory, planRungs } from "../plan/search.ts";
import type { Answer, Asked } from "./answer.ts";
import { attentionOf } from "./attention.ts";
import { commonCards } from "./commonCards.ts";
import { detailsOf } from "./details.ts";
import { officialOf } from "./official.ts";
import { waysOut } from "./otherWays.ts";
import { pageFactsOf } from "./pageFacts.ts";
import { baseName, isUnlimited, type Question } from "./question.ts";
import { ranksOf } from "./ranks.ts";
import { type Solved, solvedOf } from "./solved.ts";
import { fullSummaryOf, type PlanSummary, summaryOf } from "./summary.ts";

/** Which parts of an answer are wanted, beside the plan itself. */
export interface Wanted {
  alternatives: boolean;
  details: boolean;
  page: boolean;
  cards: boolean;
  ranks: boolean;
}

/** A part of the work that takes a while. */
export type PlanStage = "policy" | "ranks" | "official" | "cards" | "details" | "page";

/** Called as a stage begins. */
export type TellStage = (stage: PlanStage) => void;

/** Returns the parts that the options ask for; a script gets no table of common cards. */
export function wantedBy(question: Question, isScript = false): Wanted {
  const { explain, html, compare } = question.options;
  const page = html !== undefined;
  const details = explain || page;
  const isOpen = question.card !== undefined && isUnlimited(question);
  const ranks = question.alone !== undefined;
  return { alternatives: details || compare !== undefined, details, page, cards: isOpen && !isScript, ranks };
}

/** Returns the stages of an answer, in their order. */
export function stagesOf({ details, page, cards, ranks }: Wanted): PlanStage[] {
  return [
    "policy",
    ...(ranks ? (["ranks"] as const) : []),
    "official",
    ...(cards ? (["cards"] as const) : []),
    ...(details ? (["details"] as const) : []),
    ...(page ? (["page"] as const) : []),
  ];
}

/** Answers a question. */
export function answerOf(
  question: Question,
  wanted = wantedBy(question),
  tell: TellStage = () => {},
): Answer {
  const { planner, limits, fixed, card } = question;
  tell("policy");
  const { plan, solved } = recommended(question);
  const least = leastMemory(planner, plan.workload, limits, fixed);
  const isOpen = isUnlimited(question);
  const answer: Answer = {
    asked: askedOf(question),
    plan: fullSummaryOf(question, plan),
    least: summaryOf(question, least),
    ...(isOpen && { fastest: summaryOf(question, fastestPlan(planner, plan.workload, limits, fixed)) }),
    ...(solved && { solved }),
    ...(card && { attention: attentionOf(question, plan) }),
  };
  if (wanted.ranks) {
    tell("ranks");
    const ranks = ranksOf(question, plan);
    if (ranks) answer.ranks = ranks;
  }
  tell("official");
  if (card) answer.official = officialOf(question, plan, card);
  if (!plan.fits) answer.waysOut = waysOut(question, plan);
  if (wanted.cards) {
    tell("cards");
    answer.cards = commonCards(question, plan.workload);
  }
  if (wanted.alternatives) answer.alternatives = alternativesOf(question, plan);
  if (wanted.details) {
    tell("details");
    answer.details = detailsOf(question, plan);
  }
  if (wanted.page) {
    tell("page");
    answer.page = pageFactsOf(question, plan);
  }
  return answer;
}

/** The plan that the options ask for, and what --solve has found. */
function recommended(question: Question): { plan: SizedPlan; solved?: Solved } {
  const { planner, workload, limits, fixed, options } = question;
  if (options.solve !== undefined) return solvedOf(question, options.solve);
  const search = isUnlimited(question) ? leastMemory : fastestPlan;
  return { plan: search(planner, workload, limits, fixed) };
}

/** Each rung of the ladder that needs less device memory than all before it, from fast to lean. */
export function alternativesOf(question: Question, { workload }: Pick<SizedPlan, "workload">): PlanSummary[] {
  const { planner, limits, fixed } = question;
  let leastBytes = Number.POSITIVE_INFINITY;
  const leaner = planRungs(planner, workload, limits, fixed).filter(({ run: { budgetedBytes } }) => {
    const isLeaner = budgetedBytes < leastBytes;
    leastBytes = Math.min(leastBytes, budgetedBytes);
    return isLeaner;
  });
  return leaner.map((plan) => summaryOf(question, plan));
}

/** Returns the question in plain values. */
export function askedOf({
  options,
  planner,
  card,
  isHere,
  marginBytes,
  doubt,
  limits,
  trained,
}: Question): Asked {
  const { budgetBytes, hostBytes, sumBytes } = limits;
  const { limit } = pictureFormOf(planner.config);
  const device: Asked["device"] = card
    ? {
        ...{ kind: "card", title: card.title, isNamed: options.gpu !== undefined, isHere },
        ...{ totalBytes: card.memoryBytes, marginBytes },
        ...(card.note !== undefined && { note: card.note }),
      }
    : { kind: "cpu", ...(doubt !== undefined && { doubt }) };
  return {
    options,
    model: {
      config: planner.config,
      base: baseName(planner),
      visionBase: planner.visionBase,
      trained: { ...trained, [limit.key]: trained.pictureLimit },
    },
    device,
    limits: {
      ...(Number.isFinite(budgetBytes) && { deviceBytes: budgetBytes }),
      ...(Number.isFinite(hostBytes) && { hostBytes }),
      ...(sumBytes !== undefined && { sumBytes }),
    },
  };
}
