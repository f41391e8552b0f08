/** What `lorafit fit` makes its samples and steps of. */
import { z } from "zod";
import { count, group } from "../../options.ts";
import { accumulation, loraOptions } from "../../train/options/options.ts";
import { DEFAULT_RECIPE, RECIPES } from "../../train/options/recipes.ts";

export const fitOptions = group("Samples", {
  lora_r: count.default(RECIPES[DEFAULT_RECIPE].lora_r).meta({ help: "Rank of the LoRA factors." }),
  lora_dropout: loraOptions.lora_dropout,
  image_share: z.number().min(0).max(1).default(0.5).meta({ help: "the part of a sample that is picture" }),
  gradient_accumulation: accumulation.meta({
    help: "micro-batches of a step, as of lorafit train; with several, steps here keep the copy of the gradients that a run keeps",
    alias: ["gradient_accumulation_steps"],
  }),
  from: count.default(512).meta({ help: "tokens of the first sample" }),
  to: count.default(2 ** 21).meta({ help: "tokens of the longest that is tried" }),
});
