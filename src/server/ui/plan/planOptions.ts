/** Reads the options of a page's question to the planner. Loads no engine. */
import { z } from "zod";
import { PlanOptions } from "../../../answer/options.ts";
import { openLimits } from "../../../data/pictures/limits.ts";
import { unitlessError } from "../../../memoryOption.ts";
import { flagOf, parseOptions } from "../../../options.ts";

const { shape } = PlanOptions;

/** Options of `train` and `plan` that a plan depends on. Others of a form are left out, files above all. */
const Asked = z.object({
  ...{ memory: shape.memory, gpu: shape.gpu, host_memory: shape.host_memory, margin: shape.margin },
  // a run's form may say "all"
  gpus: z.preprocess((cards) => (Number.isInteger(Number(cards)) ? cards : undefined), shape.gpus),
  device: z.preprocess((name) => (/^cuda(:\d+)?$/.test(String(name)) ? "cuda" : name), shape.device),
  ...openLimits("plan"),
  ...{ model: shape.model, min_pixels: shape.min_pixels, max_length: shape.max_length },
  batch_size: shape.batch_size,
  ...{ gradient_accumulation: shape.gradient_accumulation, recipe: shape.recipe, lora_r: shape.lora_r },
  ...{ base: shape.base, head_base: shape.head_base, vision_base: shape.vision_base, weights: shape.weights },
});

/** Returns the options of a question. Throws a UsageError in the words of the command line. */
export function planOptionsOf(raw: Record<string, unknown>): PlanOptions {
  const asked = parseOptions(Asked, raw, flagOf);
  for (const key of ["memory", "host_memory"] as const) {
    const [error] = unitlessError(flagOf(key), asked[key], raw[key]);
    if (error) throw error;
  }
  return { ...PlanOptions.parse({}), ...asked };
}
