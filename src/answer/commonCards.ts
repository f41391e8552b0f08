/** Plans for common cards, for a question that names neither a card nor its memory. */
import type { SizedWorkload } from "../plan/planner.ts";
import { marginOf } from "../plan/roomToPlanFor.ts";
import { fastestPlan } from "../plan/search.ts";
import { type CardName, findDevice } from "../plan/time/cards.ts";
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

export interface CommonCards {
  /** Precision of the base in each plan of a row: as asked, then NF4 if the base is not NF4. */
  bases: string[];
  rows: CommonCard[];
}

export interface CommonCard {
  /** Name for --gpu. */
  name: string;
  totalBytes: number;
  /** By base: the fastest plan that fits, or the leanest. */
  plans: PlanSummary[];
}

export function commonCards(question: Question, workload: SizedWorkload): CommonCards {
  const { planner, fixed } = question;
  const planners = [planner, ...(planner.canQuantize("nf4") ? [planner.withBases({ base: "nf4" })] : [])];
  const rows = COMMON.map((name): CommonCard => {
    const card = findDevice(name);
    const budgetBytes = roundedDown(card.memoryBytes, marginOf(card));
    const limits = { ...question.limits, budgetBytes };
    const wiring = wiringFor(question.options, card);
    const plans = planners.map((held) => {
      const onCard = wiring ? held.onCard(card).amongRanks(0, wiring) : held.onCard(card);
      return summaryOf({ planner: onCard }, fastestPlan(onCard, workload, limits, fixed));
    });
    return { name, totalBytes: card.memoryBytes, plans };
  });
  return { bases: planners.map(baseName), rows };
}
