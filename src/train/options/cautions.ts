/** What a run's options come to that its user may not have meant: told in a line, and done all the same. */
import { formatCount } from "../../errors.ts";
import { learningRate, type Schedule } from "./schedule.ts";

/** Scales of published recipes, from QLoRA's 16 / 64 to alpha = 2 r. */
const USUAL_SCALES = { least: 0.25, most: 2 };
/** lora_alpha / lora_r of the official recipe: 64 / 64. */
const OFFICIAL_SCALE = 1;

/** What is said where new factors act much stronger or weaker than usual, as a lower rank beside the default alpha makes them. */
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
  return `lora_alpha ${shortly(alpha)} at lora_r ${rank} scales what is learned by ${shortly(scale)} (${formula}); the official recipe has 64 / 64 = 1, and ${least} to ${most} is usual. For the official scale: --lora-alpha ${shortly(OFFICIAL_SCALE * divisor)}.`;
}

/** What is said where the run ends before its warm-up does. */
export function warmupCaution(schedule: Schedule): string | undefined {
  const { warmupSteps, totalSteps, peakRate } = schedule;
  if (totalSteps > warmupSteps || peakRate === 0) return undefined;
  const mend = "Pass --warmup-steps 0 for a run this short.";
  if (totalSteps === 1)
    return `the run's only step is the first of its warm-up, whose learning rate is 0: nothing will be learned. ${mend}`;
  const highest = shortly(learningRate(totalSteps, schedule));
  return `the warm-up takes ${formatCount(warmupSteps)} steps and the run ${formatCount(totalSteps)}: the learning rate comes to ${highest} at most, not to ${shortly(peakRate)}. ${mend}`;
}

/** Three digits. */
function shortly(value: number): string {
  return String(Number(value.toPrecision(3)));
}
