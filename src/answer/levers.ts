/** The cost of increasing each setting of a plan, and the savings of fewer bits, which no search chooses. */
import type { Place } from "../models/places.ts";
import type { DryRun } from "../plan/dryRun/dryRun.ts";
import { keepingLayers } from "../plan/ladder.ts";
import type { SizedPlan, SizedWorkload } from "../plan/planner.ts";
import type { NarrowQuestion, Question } from "./question.ts";

/** Bytes on the device, except where said otherwise; every layer is recomputed in the backward pass. */
export interface Levers {
  perThousandTokens: number;
  perRank: number;
  perSample: number;
  /** Without gradient checkpointing: every layer keeps its values. */
  withoutCheckpointing: number;
  /** With the optimizer's moments in 8 bits; undefined if they are. */
  eightBit?: BytesChanged;
  /** With the vision tower in fewer bits; empty if it is, or was asked for in full. */
  vision: (BytesChanged & { visionBase: VisionBits["visionBase"] })[];
  /** The copy of the gradients that a run with gradient accumulation keeps. */
  gradientCopy: { bytes: number; place: Place };
}

/** Bytes that a change adds; below zero: what it saves. */
export interface BytesChanged {
  deviceBytes: number;
  hostBytes: number;
}

/** A plan with something in fewer bits, which changes results a little. */
export interface FewerBits extends BytesChanged {
  plan: SizedPlan;
}

export interface VisionBits extends FewerBits {
  visionBase: "int8" | "nf4";
}

/** Returns what one unit more of each size adds to a plan in memory, with everything else unchanged. */
export function leversOf(question: Question, plan: SizedPlan): Levers {
  const { planner, limits } = question;
  const { workload } = plan;
  const policy = keepingLayers(plan.policy, planner.config, planner.config.layers, "nothing"); // kept layers would hide the rest
  const { run } = planner.plan(workload, policy, limits);
  const extra = (changed: Partial<SizedWorkload>): number =>
    planner.plan({ ...workload, ...changed }, policy, limits).run.budgetedBytes - run.budgetedBytes;
  const tokens = 8000; // over more tokens than the allocator's pages hide
  const ranks = 64;
  const eightBit = eightBitOf(question, { ...plan, policy });
  return {
    perThousandTokens: extra({ maxLength: workload.maxLength + tokens }) / (tokens / 1000),
    perRank: extra({ rank: workload.rank + ranks }) / ranks,
    perSample: extra({ batchSize: workload.batchSize + 1 }),
    withoutCheckpointing: keptBytes(question, { workload, policy }),
    ...(eightBit && { eightBit: changeOf(eightBit) }),
    vision: visionBitsOf(question, { ...plan, policy }).map((bits) => ({
      visionBase: bits.visionBase,
      ...changeOf(bits),
    })),
    gradientCopy: {
      bytes: planner.gradientBytes(workload, policy),
      place: planner.gradientCopy({ ...workload, accumulation: 2 }, policy, limits)!,
    },
  };
}

function changeOf({ deviceBytes, hostBytes }: BytesChanged): BytesChanged {
  return { deviceBytes, hostBytes };
}

/**
 * Long samples get larger tiles, because a dry run goes through each kept tile; the bytes of a row are the
 * same.
 */
const MOST_TILES = 64;

/** Returns the bytes of all layers' values. */
function keptBytes(
  { planner, limits }: Question,
  { workload, policy }: Pick<SizedPlan, "workload" | "policy">,
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

/** Plans with the optimizer's moments in 8 bits; undefined if they are already. */
export function eightBitOf(
  { planner, limits }: NarrowQuestion,
  { workload, policy }: SizedPlan,
): FewerBits | undefined {
  const { optimizer } = policy;
  if (optimizer.precision === "8bit") return undefined;
  const { run } = planner.plan(workload, policy, limits);
  const eightBit = { ...policy, optimizer: { ...optimizer, precision: "8bit" as const } };
  return beside(planner.plan(workload, eightBit, limits), run);
}

/** Plans with the vision tower in fewer bits; none if it is already, or was asked for in full. */
export function visionBitsOf(
  { planner, limits, options }: NarrowQuestion,
  { workload, policy }: SizedPlan,
): VisionBits[] {
  if (options.vision_base !== undefined || planner.visionBase !== "bf16") return [];
  const { run } = planner.plan(workload, policy, limits);
  return (["int8", "nf4"] as const).map((visionBase) => ({
    visionBase,
    ...beside(planner.withBases({ visionBase }).plan(workload, policy, limits), run),
  }));
}

function beside(plan: SizedPlan, { budgetedBytes, hostBytes }: DryRun): FewerBits {
  return {
    plan,
    deviceBytes: plan.run.budgetedBytes - budgetedBytes,
    hostBytes: plan.run.hostBytes - hostBytes,
  };
}
