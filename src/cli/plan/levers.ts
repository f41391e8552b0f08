/** What more of each size of a plan costs, and what fewer bits would save, which nothing chooses by itself. */
import { formatBytes, formatCount } from "../../errors.ts";
import type { Plan, Workload } from "../../plan/planner.ts";
import { table } from "../output/output.ts";
import type { FewerBits, Levers, VisionBits } from "./answer.ts";
import type { Question } from "./question.ts";
import { alphaLever, elsewhere, signed } from "./words.ts";

/** What more of each size costs, and what fewer bits would save. */
export function leversText(
  question: Question,
  { perThousandTokens, perRank, perSample, withoutCheckpointing, eightBit, vision, gradientCopy }: Levers,
  { workload }: Plan,
): string {
  const rows = [
    ["max_length", `${signed(perThousandTokens)} per 1,000 tokens`],
    ["lora_r", `${signed(perRank)} per unit of rank (4 to 32 is usual)`],
    ["lora_alpha", alphaLever(workload)],
    ["gradient checkpointing", `switching it off (no layer computed again): ${signed(withoutCheckpointing)}`],
    ["batch size", `${signed(perSample)} per further sample of ${formatCount(workload.maxLength)} tokens`],
    ["gradient accumulation", accumulationLever(question, gradientCopy, workload)],
    ...(eightBit ? [["optimizer in 8 bits", eightBitLever(question, eightBit)]] : []),
    ...visionLever(question, vision),
  ];
  return [
    "What more of each costs, with every layer computed again in the backward pass:",
    table(rows.map(([name, what]) => [`  ${name}`, what!])),
  ].join("\n");
}

function eightBitLever(question: Question, eightBit: FewerBits): string {
  return `${added(question, eightBit)}; ${NEVER_CHOSEN}: optimizer precision 8bit in a --policy`;
}

const NEVER_CHOSEN = "changes results a little, so never chosen for you";

function added(question: Question, { deviceBytes, hostBytes }: FewerBits): string {
  const host =
    Math.abs(hostBytes) > Math.abs(deviceBytes) ? `, and ${signed(hostBytes)} ${elsewhere(question).of}` : "";
  return `${signed(deviceBytes)}${host}`;
}

/** Where it saves anything worth the name. */
function visionLever(question: Question, kinds: readonly VisionBits[]): string[][] {
  const worth = kinds.filter(({ deviceBytes, hostBytes }) => Math.min(deviceBytes, hostBytes) < -MIB);
  if (worth.length === 0) return [];
  const saved = worth.map((kind) => `in ${kind.visionBase} ${added(question, kind)}`);
  return [["vision tower", `${saved.join("; ")}; ${NEVER_CHOSEN}: --vision-base`]];
}

const MIB = 2 ** 20;

function accumulationLever(
  question: Question,
  { bytes, place }: Levers["gradientCopy"],
  { accumulation = 1 }: Workload,
): string {
  const where = place === "host" ? elsewhere(question).where : "beside them, as the host has no room for it";
  const counted = accumulation > 1 ? `, counted here for ${accumulation} micro-batches a step` : "";
  return `a copy of the gradients ${where}, ${formatBytes(bytes)}${counted}`;
}
