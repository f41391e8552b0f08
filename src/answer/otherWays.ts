/** Other plans that fit: the largest value of each size, and if nothing fits, the settings to change. */
import { GIB } from "../errors.ts";
import type { SizedPlan } from "../plan/planner.ts";
import { leastMemory } from "../plan/search.ts";
import { UNKNOWNS, type Unknown } from "../plan/solvable.ts";
import { eightBitOf, visionBitsOf } from "./levers.ts";
import type { NarrowQuestion, Question } from "./question.ts";
import { roomFor } from "./solved.ts";

/** One change with which something fits. */
export interface Way {
  /** The option to change: "--max-length", "--base nf4". */
  option: string;
  /** The largest value that fits, for an option that takes a number. */
  most?: {
    value: number;
    /** Whether larger values would fit that are of no use. */
    isCapped: boolean;
    /** Whether no larger value was tried. */
    isLargestTried: boolean;
  };
  /** Bytes on the device with the change. */
  deviceBytes: number;
  hostBytes: number;
  remark?: string;
}

/** Room for less than a twentieth more is not worth a line. */
const WORTH_SAYING = 1.05;

/** Returns what all of the memory would be enough for under the leanest policy, each setting alone. */
export function roomToSpare(question: Question, plan: SizedPlan): Way[] {
  const { maxLength, rank } = plan.workload;
  const now = { "max-length": maxLength, "lora-r": rank };
  return mostOf(question, plan).filter(
    ({ unknown, most }) => most!.value >= WORTH_SAYING * now[unknown as keyof typeof now],
  );
}

/** Returns the changes with which something fits, each alone. */
export function waysOut(question: NarrowQuestion, plan: SizedPlan): Way[] {
  return [...mostOf(question, plan), ...otherLimits(question, plan), ...fewerBits(question, plan)];
}

function mostOf(question: NarrowQuestion, plan: SizedPlan): (Way & { unknown: Unknown })[] {
  return (["max-length", "lora-r"] as const).flatMap((unknown) => {
    const room = roomFor(question, plan, unknown);
    if (!room) return [];
    const { value, isCapped } = room;
    const most = { value, isCapped, isLargestTried: value >= UNKNOWNS[unknown].most };
    return [{ unknown, ...wayOf(`--${unknown}`, room.plan), most }];
  });
}

function wayOf(option: string, { run }: SizedPlan, remark?: string): Way {
  const { budgetedBytes: deviceBytes, hostBytes } = run;
  return { option, deviceBytes, hostBytes, ...(remark !== undefined && { remark }) };
}

/** Tries more host memory, streaming if that was ruled out, or only both together. */
function otherLimits(question: NarrowQuestion, { workload }: SizedPlan): Way[] {
  const { planner, limits, fixed } = question;
  const isBounded = Number.isFinite(limits.hostBytes) && limits.sumBytes === undefined;
  const staysResident = fixed.weights === "resident" && !fixed.policy;
  const way = (hasMore: boolean, streams: boolean): Way[] => {
    const hostBytes = hasMore ? Number.POSITIVE_INFINITY : limits.hostBytes;
    const asFixed = streams ? { ...fixed, weights: undefined } : fixed;
    const plan = leastMemory(planner, workload, { ...limits, hostBytes }, asFixed);
    const option = [
      ...(hasMore ? [`--host-memory ${tenths(plan.run.hostBytes)}GiB`] : []),
      ...(streams ? ["without --weights resident"] : []),
    ].join(" ");
    return plan.fits ? [wayOf(option, plan)] : [];
  };
  const alone = [...(isBounded ? way(true, false) : []), ...(staysResident ? way(false, true) : [])];
  return alone.length === 0 && isBounded && staysResident ? way(true, true) : alone;
}

/** Rounds up. */
function tenths(bytes: number): string {
  return (Math.ceil((10 * bytes) / GIB) / 10).toFixed(1);
}

const CHANGES = "changes results a little";

/** Tries fewer bits of the base, the vision tower and the optimizer's moments. */
function fewerBits(question: NarrowQuestion, plan: SizedPlan): Way[] {
  const { planner, limits, fixed } = question;
  const nf4 = planner.canQuantize("nf4")
    ? leastMemory(planner.withBases({ base: "nf4" }), plan.workload, limits, fixed)
    : undefined;
  const vision = visionBitsOf(question, plan).find((kind) => kind.plan.fits);
  const eightBit = eightBitOf(question, plan)?.plan;
  return [
    ...(nf4?.fits ? [wayOf("--base nf4", nf4, `4 bits a weight of the frozen base; ${CHANGES}`)] : []),
    ...(vision ? [wayOf(`--vision-base ${vision.visionBase}`, vision.plan, CHANGES)] : []),
    ...(eightBit?.fits
      ? [wayOf("optimizer in 8 bits", eightBit, `${CHANGES}: --policy '${JSON.stringify(eightBit.policy)}'`)]
      : []),
  ];
}
