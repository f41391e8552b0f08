/** Plans one trial: its memory and time, or why it can't run and what would make it fit. */
import { waysOut } from "../../answer/otherWays.ts";
import { messageOf, UserError } from "../../errors.ts";
import { familyOf } from "../../models/families.ts";
import type { Plan } from "../../plan/planner.ts";
import { leastMemory } from "../../plan/search.ts";
import { type PlannedRun, planOnly } from "../../train/loop/planOnly.ts";
import type { TrainInput } from "../../train/options/options.ts";
import { type Misfit, shareOfPictures, TooLittleMemoryError } from "../../train/planning/tooLittleMemory.ts";

export type TrialPlan =
  | ({ kind: "fits" } & PlannedRun)
  | { kind: "too-large"; neededBytes: number; reason: string; waysOut: string[] }
  /** Something is wrong with its data or its options. */
  | { kind: "failed"; error: string };

export async function planTrial(options: TrainInput): Promise<TrialPlan> {
  try {
    return { kind: "fits", ...(await planOnly(options)) };
  } catch (thrown) {
    if (thrown instanceof TooLittleMemoryError) return tooLarge(thrown, options);
    if (thrown instanceof UserError)
      return { kind: "failed", error: [thrown.message, thrown.fix].filter(Boolean).join("\n") };
    throw thrown;
  }
}

function tooLarge(error: TooLittleMemoryError, options: TrainInput): TrialPlan {
  const { message, fix = "", misfit, neededBytes } = error;
  const ofData = fix.replace(/^Pass /, "").split(/\nor +/);
  return {
    kind: "too-large",
    reason: messageOf(message),
    neededBytes,
    waysOut: [...ofData, ...otherSettings(misfit, options)],
  };
}

/** Returns changes of other settings than the data's with which the longest sample would fit. */
function otherSettings({ planner, workload, demand, limits, fixed }: Misfit, options: TrainInput): string[] {
  const { longest, mostTokens } = demand;
  const sized = {
    ...{
      ...workload,
      maxLength: mostTokens,
      pictureLimit: 1,
      imageShare: shareOfPictures(longest),
      batchSize: 1,
    },
  };
  const question = {
    ...{ planner, limits, trained: familyOf(planner.config).trained(planner.config) },
    fixed: { weights: undefined, policy: undefined, attention: fixed?.attention },
    options: { beyond_training: false, vision_base: options.vision_base },
  };
  const least: Plan<typeof sized> = leastMemory(planner, sized, limits, fixed);
  return waysOut(question, least)
    .filter(({ option }) => option !== "--max-length") // the data's own is among the others
    .map(
      ({ option, most, remark }) =>
        `${option}${most ? ` ${most.value}` : ""}${remark ? `  (${remark})` : ""}`,
    );
}
