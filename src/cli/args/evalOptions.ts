/** Options of `lorafit eval`: which samples are evaluated, and how answers are scored. */
import { z } from "zod";
import { listOfChoices } from "../../options.ts";
import { METRIC_NAMES } from "../../train/evaluate/scores.ts";
import { checkpointOptions } from "../../train/options/checkpointOptions.ts";
import { seed } from "../../train/options/options.ts";

/** The part of the data that a run with the same options does not train on. */
export const setAsideOptions = {
  val_size: checkpointOptions.val_size.meta({
    ...checkpointOptions.val_size.meta(),
    help: "Evaluate only the part of the data that train sets aside with the same --val-size, --seed and --max-length. Default: all samples.",
  }),
  seed: seed.meta({ ...seed.meta(), help: "Seed that drew the part of --val-size." }),
};

export const scoredAnswers = {
  answers: z.boolean().default(false).meta({
    help: "Let the model answer the questions of each dialogue, and score the answers by exact match and ANLS (similarity of texts, 0 to 1).",
  }),
  metric: z
    .array(z.enum(METRIC_NAMES))
    .min(1)
    .optional()
    .meta({
      help: "Metrics of the answers to print instead of exact_match and anls: exact_match, anls, cer and wer (errors by characters and words of the expected text), field_f1 (fields of answers in JSON). Implies --answers. --json prints all of them.",
      value: METRIC_NAMES.join("|"),
      takes: listOfChoices(METRIC_NAMES),
    }),
};
