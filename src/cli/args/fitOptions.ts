/** Options of `lorafit fit` for its samples and steps. */
import { z } from "zod";
import { count, group } from "../../options.ts";
import { accumulation, loraOptions } from "../../train/options/options.ts";
import { DEFAULT_RECIPE, RECIPES } from "../../train/options/recipes.ts";

export const fitOptions = group("Samples", {
  lora_r: count.default(RECIPES[DEFAULT_RECIPE].lora_r).meta({ help: "Rank of the LoRA factors." }),
  lora_dropout: loraOptions.lora_dropout,
  image_share: z
    .number()
    .min(0)
    .max(1)
    .default(0.5)
    .meta({ help: "Share of a sample's tokens that belong to pictures." }),
  gradient_accumulation: accumulation.meta({
    help: "Micro-batches of an optimizer step in the run to come. With several, a run keeps a copy of its gradients, so the steps here do too.",
    alias: ["gradient_accumulation_steps"],
  }),
  from: count.default(512).meta({ help: "Tokens of the first sample." }),
  to: count.default(2 ** 21).meta({ help: "Maximum number of tokens to try." }),
});
