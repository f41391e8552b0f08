/** What common cards make of a workload, where no card and no memory was named: the least that one needs, and how fast others are. */
import { formatBytes } from "../../errors.ts";
import type { Plan } from "../../plan/planner.ts";
import { fastestPlan, solve } from "../../plan/search.ts";
import { type Card, type CardName, findDevice } from "../../plan/time/cards.ts";
import { commandLine } from "../../program.ts";
import { formatDuration, table } from "../output/output.ts";
import type { TellStage } from "./progress.ts";
import type { Question } from "./question.ts";
import { baseName, largestOf } from "./words.ts";

/** One for each amount of memory that many have. */
const COMMON = [
  "rtx-4060",
  "rtx-3060-12gb",
  "rtx-4060-ti-16gb",
  "rtx-3090",
  "rtx-5090",
  "a100-80gb",
] as const satisfies CardName[];

export interface CommonCards {
  /** What the base is held in: as asked and, where that is another way, in NF4. */
  bases: string[];
  /** plans: the fastest that fits, or the least, by base; longest: the largest max_length with the base as asked. */
  rows: { card: Card; plans: Plan[]; longest: number | undefined }[];
}

export function commonCards(question: Question, { workload }: Plan, tell: TellStage = () => {}): CommonCards {
  const { planner, fixed } = question;
  const planners = [planner, ...(planner.canQuantize("nf4") ? [planner.withBases({ base: "nf4" })] : [])];
  let { maxLength } = workload; // each card's search begins at the answer of the one before, which is smaller
  const rows = COMMON.map((name, index) => {
    tell("common", index / COMMON.length);
    const card = findDevice(name);
    const limits = { ...question.limits, budgetBytes: card.memoryBytes };
    const plans = planners.map((held) => fastestPlan(held.onCard(card), workload, limits, fixed));
    const longest = solve(
      planner.onCard(card),
      "max-length",
      { ...workload, maxLength },
      limits,
      fixed,
    )?.solved;
    maxLength = longest ?? maxLength;
    return { card, plans, longest };
  });
  return { bases: planners.map(baseName), rows };
}

/** A row for each card, and how to go on. */
export function cardsText({ bases, rows }: CommonCards): string {
  const cellsOf = ({ fits, stepMs, run }: Plan): string[] =>
    fits ? [formatDuration(stepMs), formatBytes(run.hostBytes)] : ["does not fit", ""];
  const heads = bases.flatMap((base) => [`${base} base`, "RAM"]);
  return [
    `What common cards make of it, by the fastest policy that fits: time a micro-batch and RAM; largest max_length, ${bases[0]} base and leanest policy:`,
    table([
      ["  --gpu", "VRAM", ...heads, "max_length"],
      ...rows.map(({ card: { name, memoryBytes }, plans, longest }) => [
        `  ${name}`,
        formatBytes(memoryBytes),
        ...plans.flatMap(cellsOf),
        longest === undefined ? "" : `up to ${largestOf("max-length", longest)}`,
      ]),
    ]),
    `In full:  ${commandLine("plan --gpu NAME")}      All cards:  ${commandLine("plan --list-gpus")}`,
  ].join("\n");
}
