/** The answer to a question of `lorafit plan`: the recommended configuration, its alternatives, and what more of each lever costs. */

import { pictureTokens } from "../../data/pictures/image.ts";
import type { Place } from "../../models/places.ts";
import { batchOf } from "../../plan/dryRun/batchShapes.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { keepingLayers } from "../../plan/ladder.ts";
import type { Plan, Workload } from "../../plan/planner.ts";
import { fastestPlan, leastMemory, planRungs, solve } from "../../plan/search.ts";
import type { Unknown } from "../../plan/solvable.ts";
import { CATEGORIES } from "../../torch/device.ts";
import type { CommonCards } from "./commonCards.ts";
import { isUnlimited, type Question } from "./question.ts";

export interface Answer {
  plan: Plan;
  /** What was solved for: bytes of memory, or the largest value that fits; null where none does. */
  solved: number | null | undefined;
  /** The official schedule at the same sizes, on a card. */
  official?: DryRun | undefined;
  /** Where no card and no memory was named. */
  cards?: CommonCards | undefined;
}

/** Plans what was asked for: the solution of --solve, the fastest policy that fits, or the leanest where nothing limits it or none does. */
export function answerOf(question: Question): Answer {
  const { planner, workload, limits, fixed, options } = question;
  if (options.solve === "memory") {
    const plan = leastMemory(planner, workload, limits, fixed);
    return { plan, solved: plan.run.budgetedBytes };
  }
  if (options.solve !== undefined && !isUnlimited(question)) {
    const solution = solve(planner, options.solve, workload, limits, fixed);
    if (solution) return solution;
    return { plan: leastMemory(planner, workload, limits, fixed), solved: null };
  }
  const plan = isUnlimited(question)
    ? leastMemory(planner, workload, limits, fixed)
    : fastestPlan(planner, workload, limits, fixed);
  return { plan, solved: undefined };
}

/** The recommended plan's other choices: each rung that takes less memory than all before it, from fast to lean. */
export function alternativesOf({ planner, limits, fixed }: Question, plan: Plan): Plan[] {
  let leastBytes = Number.POSITIVE_INFINITY;
  return planRungs(planner, plan.workload, limits, fixed).filter(({ run: { budgetedBytes } }) => {
    const isLeaner = budgetedBytes < leastBytes;
    leastBytes = Math.min(leastBytes, budgetedBytes);
    return isLeaner;
  });
}

/** The most of one thing that fits under the leanest policy, the rest as it is, and its plan. */
export function roomFor(
  { planner, limits, fixed }: Question,
  plan: Plan,
  unknown: Unknown,
): { solved: number; plan: Plan } | undefined {
  return solve(planner, unknown, plan.workload, limits, fixed);
}

/** Bytes that more of each lever takes under the plan's own policy. */
export interface Levers {
  perThousandTokens: number;
  perRank: number;
  perSample: number;
  /** Every layer keeps its values: no gradient checkpointing. */
  withoutCheckpointing: number;
  /** The same with moments in 8 bits; undefined where they are. */
  eightBit: FewerBits | undefined;
  /** The same with the vision tower quantised; none where it is. */
  vision: VisionBits[];
  /** The copy of the gradients that a run with gradient accumulation keeps, and where. */
  gradientCopy: { bytes: number; place: Place };
}

/** What one unit more of each size adds to a plan in memory, all else as it is. */
export function leversOf(question: Question, plan: Plan): Levers {
  const { planner, limits } = question;
  const { workload } = plan;
  const policy = keepingLayers(plan.policy, planner.config, planner.config.layers, "nothing"); // else kept layers would hide the rest
  const { run } = planner.plan(workload, policy, limits);
  const extra = (changed: Partial<Workload>): number =>
    planner.plan({ ...workload, ...changed }, policy, limits).run.budgetedBytes - run.budgetedBytes;
  const tokens = 8000; // over more tokens than the allocator's pages hide
  const ranks = 64;
  return {
    perThousandTokens: extra({ maxLength: workload.maxLength + tokens }) / (tokens / 1000),
    perRank: extra({ rank: workload.rank + ranks }) / ranks,
    perSample: extra({ batchSize: workload.batchSize + 1 }),
    withoutCheckpointing: keptBytes(question, { workload, policy }),
    eightBit: eightBitOf(question, { ...plan, policy }),
    vision: visionBitsOf(question, { ...plan, policy }),
    gradientCopy: {
      bytes: planner.gradientBytes(workload, policy),
      place: planner.gradientCopy({ ...workload, accumulation: 2 }, policy, limits)!,
    },
  };
}

/** Tiles whose values are all kept are all run, so of long samples they are larger: what is kept of a row is the same. */
const MOST_TILES = 64;

/** What it takes to keep the values of all layers. */
function keptBytes(
  { planner, limits }: Question,
  { workload, policy }: Pick<Plan, "workload" | "policy">,
): number {
  const { maxLength, batchSize } = workload;
  const mlpTileTokens = Math.max(
    policy.mlpTileTokens,
    512 * Math.ceil((maxLength * batchSize) / MOST_TILES / 512),
  );
  const bytes = (keep: "nothing" | "all"): number => {
    const kept = keepingLayers({ ...policy, mlpTileTokens }, planner.config, planner.config.layers, keep);
    return planner.plan(workload, kept, limits).run.budgetedBytes;
  };
  return bytes("all") - bytes("nothing");
}

/** A plan with something in fewer bits, which no search chooses: it changes results a little. Bytes: what it adds, below zero what it saves. */
export interface FewerBits {
  plan: Plan;
  deviceBytes: number;
  hostBytes: number;
}

/** With the optimizer's moments in 8 bits; undefined where they are already. */
export function eightBitOf({ planner, limits }: Question, { workload, policy }: Plan): FewerBits | undefined {
  const { optimizer } = policy;
  if (optimizer.precision === "8bit") return undefined;
  const { run } = planner.plan(workload, policy, limits);
  const eightBit = { ...policy, optimizer: { ...optimizer, precision: "8bit" as const } };
  return beside(planner.plan(workload, eightBit, limits), run);
}

/** With the vision tower in fewer bits, of which kind. */
export interface VisionBits extends FewerBits {
  visionBase: "int8" | "nf4";
}

/** None where the tower is in fewer bits already, or was asked for in full. */
export function visionBitsOf(
  { planner, limits, options }: Question,
  { workload, policy }: Plan,
): VisionBits[] {
  if (options.vision_base !== undefined || planner.visionBase !== "bf16") return [];
  const { run } = planner.plan(workload, policy, limits);
  return (["int8", "nf4"] as const).map((visionBase) => ({
    visionBase,
    ...beside(planner.withBases({ visionBase }).plan(workload, policy, limits), run),
  }));
}

function beside(plan: Plan, { budgetedBytes, hostBytes }: DryRun): FewerBits {
  return {
    plan,
    deviceBytes: plan.run.budgetedBytes - budgetedBytes,
    hostBytes: plan.run.hostBytes - hostBytes,
  };
}

/** What makes up the budgeted bytes: the categories at the device's peak, and on a card what CUDA and its allocator add. */
export function partsOf({ run, card }: { run: DryRun; card: Question["card"] }): Record<string, number> {
  const parts: Record<string, number> = Object.fromEntries(
    CATEGORIES.map((name) => [name, run.device.categories[name]]),
  );
  if (!card) return parts;
  const known = run.device.peakBytes + card.contextBytes;
  return { ...parts, context: card.contextBytes, allocator: run.budgetedBytes - known };
}

/** Tokens of a sample's picture at its largest, and what they leave to text. */
export function supervisedOf({ workload }: Plan): { pictureTokens: number; textTokens: number } {
  const tokens = pictureTokens(batchOf(workload).pictures);
  return { pictureTokens: tokens, textTokens: workload.maxLength - tokens };
}
