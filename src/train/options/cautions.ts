/** Warnings about options that work but that the user may not have meant. The run starts all the same. */
import { formatCount } from "../../errors.ts";
import { alphaOfScaleOne } from "./recipes.ts";
import { learningRate, type Schedule } from "./schedule.ts";

/** Scales of published recipes: from QLoRA's 16 / 64 to alpha = 2 r. */
const USUAL_SCALES = { least: 0.25, most: 2 };
/** Warns if new factors act much stronger or weaker than usual; undefined if they do not. */
export function scaleCaution({
  lora_r: rank,
  lora_alpha: alpha,
  lora_rslora: rslora,
}: {
  lora_r: number;
  lora_alpha: number;
  lora_rslora: boolean;
}): string | undefined {
  const { least, most } = USUAL_SCALES;
  const divisor = rslora ? Math.sqrt(rank) : rank;
  const scale = alpha / divisor;
  if (scale >= least && scale <= most) return undefined;
  const formula = `lora_alpha / ${rslora ? "sqrt(lora_r)" : "lora_r"}`;
  return `lora_alpha ${shortly(alpha)} at lora_r ${rank} scales what is learned by ${shortly(scale)} (${formula}); ${least} to ${most} is usual. Leave --lora-alpha out, or pass --lora-alpha ${shortly(alphaOfScaleOne(rank, rslora))}, for a scale of 1 as in the official recipe.`;
}

/** Warns if the run ends before its warm-up does; undefined if it does not. */
export function warmupCaution(schedule: Schedule): string | undefined {
  const { warmupSteps, totalSteps, peakRate } = schedule;
  if (totalSteps > warmupSteps || peakRate === 0) return undefined;
  const fix = "Pass --warmup-steps 0 for a run this short.";
  if (totalSteps === 1)
    return `the run has one step, the first of the warm-up, and its learning rate is 0: nothing will be learned. ${fix}`;
  const highest = shortly(learningRate(totalSteps, schedule));
  return `the warm-up has ${formatCount(warmupSteps)} steps and the run ${formatCount(totalSteps)}: the learning rate reaches ${highest} at most, not ${shortly(peakRate)}. ${fix}`;
}

/** Writes three digits. */
function shortly(value: number): string {
  return String(Number(value.toPrecision(3)));
}
