/** What else would fit: the most of each size in all of the memory, and where nothing fits as asked, what to change. */
import { formatBytes, GIB } from "../../errors.ts";
import type { Plan } from "../../plan/planner.ts";
import { leastMemory } from "../../plan/search.ts";
import type { Unknown } from "../../plan/solvable.ts";
import { table } from "../output/output.ts";
import { eightBitOf, roomFor, visionBitsOf } from "./answer.ts";
import type { Question } from "./question.ts";
import { besideIt, largestOf } from "./words.ts";

/** Of a plan that fits: what is left, and what all of the memory would be enough for. */
export function spareRoom(question: Question, plan: Plan): string {
  const spareBytes = question.limits.budgetBytes - plan.run.budgetedBytes;
  const most = mostOf(question, plan);
  const spare = `Room to spare: ${formatBytes(Math.max(0, spareBytes))}.`;
  if (most.length === 0) return spare;
  const all = formatBytes(question.limits.budgetBytes);
  return [
    `${spare} Under the leanest policy all of the ${all} would be enough for, each alone:`,
    ...lines(most),
  ].join("\n");
}

/** What to change where nothing fits. */
export function wayOut(question: Question, plan: Plan): string {
  const ways = [...mostOf(question, plan), ...otherLimits(question, plan), ...fewerBits(question, plan)];
  return ways.length > 0
    ? ["What would fit, each alone:", ...lines(ways)].join("\n")
    : "Neither a shorter max_length, a lower rank, nor fewer bits of the base make it fit.";
}

/** Room for less than a twentieth more is not told. */
const WORTH_SAYING = 1.05;

/** Option, what it comes to, what it takes of the host, and a remark. */
type Way = [option: string, what: string, host: string, remark: string];

function lines(ways: readonly Way[]): string[] {
  return table(ways.map(([option, ...rest]) => [`  ${option}`, ...rest])).split("\n");
}

function mostOf(question: Question, plan: Plan): Way[] {
  const now = { "max-length": plan.workload.maxLength, "lora-r": plan.workload.rank };
  return (["max-length", "lora-r"] as const).flatMap((unknown: keyof typeof now & Unknown): Way[] => {
    const room = roomFor(question, plan, unknown);
    if (!room || (plan.fits && room.solved < WORTH_SAYING * now[unknown])) return [];
    const usual = unknown === "lora-r" && room.solved > 32 ? "(4 to 32 is usual)" : "";
    const most = `up to ${largestOf(unknown, room.solved)}`;
    return [[`--${unknown}`, most, besideIt(question, room.plan), usual]];
  });
}

/** With more of the host, with streaming where that was ruled out, or only with both. */
function otherLimits(question: Question, { workload }: Plan): Way[] {
  const { planner, limits, fixed } = question;
  const isBounded = Number.isFinite(limits.hostBytes);
  const staysResident = fixed.weights === "resident" && !fixed.policy;
  const way = (hasMore: boolean, streams: boolean): Way[] => {
    const hostBytes = hasMore ? Number.POSITIVE_INFINITY : limits.hostBytes;
    const asFixed = streams ? { ...fixed, weights: undefined } : fixed;
    const plan = leastMemory(planner, workload, { ...limits, hostBytes }, asFixed);
    const option = [
      ...(hasMore ? [`--host-memory ${tenths(plan.run.hostBytes)}GiB`] : []),
      ...(streams ? ["without --weights resident"] : []),
    ].join(" ");
    return plan.fits ? [[option, vram(plan), besideIt(question, plan), ""]] : [];
  };
  const alone = [...(isBounded ? way(true, false) : []), ...(staysResident ? way(false, true) : [])];
  return alone.length === 0 && isBounded && staysResident ? way(true, true) : alone;
}

/** Never less than so many bytes. */
function tenths(bytes: number): string {
  return (Math.ceil((10 * bytes) / GIB) / 10).toFixed(1);
}

const CHANGES = "changes results a little";

/** The nearest policy with fewer bits of something, where that is enough to fit. */
function fewerBits(question: Question, plan: Plan): Way[] {
  const { planner, limits, fixed } = question;
  const eightBit = eightBitOf(question, plan)?.plan;
  const vision = visionBitsOf(question, plan).find((kind) => kind.plan.fits);
  const told = (option: string, { plan: changed, remark }: { plan: Plan; remark: string }): Way[] =>
    changed.fits ? [[option, vram(changed), besideIt(question, changed), remark]] : [];
  const nf4 =
    planner.canQuantize("nf4") &&
    leastMemory(planner.withBases({ base: "nf4" }), plan.workload, limits, fixed);
  return [
    ...(nf4
      ? told("--base nf4", { plan: nf4, remark: `4 bits a number of the frozen base; ${CHANGES}` })
      : []),
    ...(vision ? told(`--vision-base ${vision.visionBase}`, { plan: vision.plan, remark: CHANGES }) : []),
    ...(eightBit
      ? told("optimizer in 8 bits", {
          plan: eightBit,
          remark: `${CHANGES}: --policy '${JSON.stringify(eightBit.policy)}'`,
        })
      : []),
  ];
}

function vram({ run }: Plan): string {
  return formatBytes(run.budgetedBytes);
}
