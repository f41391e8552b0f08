/**
 * The recipes that --recipe names. They differ in rank and learning rate; every other option of the official
 * recipe is lorafit's default too. `lorafit train`, `plan` and `fit` read these values here and nowhere else.
 */
import { z } from "zod";

interface Recipe {
  lora_r: number;
  /** Peak of the schedule. */
  learning_rate: number;
}

/**
 * lorafit: rank 16, inside the usual 4 to 32, needs a quarter of the official rank's memory for factors and
 * optimizer. Its rate is 10 times the official one for full fine-tuning (1e-5 in finetune.sh): LoRA learns
 * best at about 10 times the rate of full fine-tuning (Schulman et al., "LoRA Without Regret", 2025). QLoRA
 * trains models of this size at 2e-4 (arXiv:2305.14314, appendix B). Whether the best rate falls as the rank
 * grows depends on how alpha follows the rank (arXiv:2602.06204), so a sweep decides for a data set.
 *
 * official: InternLM-XComposer's finetune.py (lora_r 64, lora_alpha 64) and finetune_lora.sh (learning_rate
 * 5e-5).
 */
export const RECIPES = {
  lorafit: { lora_r: 16, learning_rate: 1e-4 },
  official: { lora_r: 64, learning_rate: 5e-5 },
} as const satisfies Record<string, Recipe>;

export type RecipeName = keyof typeof RECIPES;

/** The recipe of a run that names none. */
export const DEFAULT_RECIPE = "lorafit" satisfies RecipeName;

export const recipe = z
  .enum(Object.keys(RECIPES) as [RecipeName, ...RecipeName[]])
  .default(DEFAULT_RECIPE)
  .meta({
    help: `Defaults of rank and learning rate. lorafit: ${wordsOf("lorafit")}. official: ${wordsOf("official")}, as in the official finetune.py and finetune_lora.sh. All other defaults are the official ones in both.`,
  });

/** Returns "Default: 16; 64 with --recipe official.", for the help of an option that a recipe sets. */
export function defaultByRecipe(key: keyof Recipe): string {
  return `Default: ${numeral(RECIPES.lorafit[key])}; ${numeral(RECIPES.official[key])} with --recipe official.`;
}

/**
 * Returns the alpha that scales the factors' product by 1: the rank, or its root with rsLoRA, where the scale
 * is alpha / sqrt(rank).
 */
export function alphaOfScaleOne(rank: number, rslora: boolean): number {
  return rslora ? Math.sqrt(rank) : rank;
}

function wordsOf(name: RecipeName): string {
  const { lora_r, learning_rate } = RECIPES[name];
  return `lora_r ${lora_r}, learning_rate ${numeral(learning_rate)}`;
}

/** Writes small numbers as people do: 5e-5. */
function numeral(value: number): string {
  return value < 1e-3 ? value.toExponential() : String(value);
}
