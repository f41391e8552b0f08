/** Checks before a run that its evaluations can have the metric that decides which adapter is the best. */
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import { plural, UserError } from "../../errors.ts";
import { answerRequests } from "../planning/answerPlan.ts";
import type { Objective } from "./best.ts";
import { METRICS } from "./scores.ts";

/** Throws UserError if the metric has nothing to score in these samples. */
export function checkMetric(
  metric: Objective,
  samples: readonly PreparedSample[],
  tokenizer: Tokenizer | undefined,
): void {
  if (metric === "loss" || metric === "exact_match") return; // ids can be compared too
  if (!tokenizer)
    throw new UserError(`metric ${metric} compares texts, but this model's folder has no tokenizer.`, {
      fix: "Put the model's tokenizer.model into its folder, or pass --metric loss or --metric exact_match.",
    });
  const stopIds = tokenizer.dialogue.stopIds;
  const isScored = samples.some((sample) =>
    answerRequests(sample, stopIds).some(({ expectedIds }) => {
      const expected = tokenizer.decode(expectedIds, { skipSpecial: true }).trim();
      return METRICS[metric].score("", expected) !== undefined;
    }),
  );
  if (isScored) return;
  throw new UserError(
    `metric ${metric} scores answers in JSON, but no expected answer of the ${plural(samples.length, "sample")} to evaluate on is a JSON object or list.`,
    { fix: "Pass another --metric, such as anls or cer." },
  );
}
