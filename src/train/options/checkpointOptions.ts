/** Options of a run's checkpoints and evaluations. */
import { z } from "zod";
import { count, dataFiles, group } from "../../options.ts";
import { METRIC_NAMES } from "../evaluate/scores.ts";

export const checkpointOptions = group("Checkpoints and evaluation", {
  save_every: count.default(100).meta({
    help: "Steps from one checkpoint to the next.",
    alias: ["save_steps"],
  }),
  stop_at_step: count.optional().meta({
    help: "Stop after this step with a checkpoint, although the run is longer; the schedule stays that of the whole run. --resume continues to the same bytes as a run that never stopped. It holds for this call alone: train.yaml does not record it.",
  }),
  keep_checkpoints: count.default(2).meta({
    help: "Number of checkpoints to keep; older ones are removed.",
    alias: ["save_total_limit"],
  }),
  eval_data: dataFiles.optional().meta({
    help: "Samples to evaluate on. The adapter with the lowest loss, or the best --metric, is kept beside the last one.",
  }),
  val_size: z
    .number()
    .positive()
    .refine((size) => size < 1 || Number.isInteger(size))
    .optional()
    .meta({
      help: "Part of the data that is set aside to evaluate on, and not trained on: a share below 1, or a number of samples. --seed draws it; samples of one document (the same id) stay together.",
      takes: "a share below 1, or a whole number of samples",
    }),
  eval_every: count.optional().meta({
    help: "Steps from one evaluation to the next. Default: one evaluation, at the end.",
    alias: ["eval_steps"],
  }),
  metric: z
    .enum(["loss", ...METRIC_NAMES])
    .default("loss")
    .meta({
      help: "What decides which evaluated adapter is the best: the loss, or a metric of its answers. exact_match, anls and field_f1 (fields of answers in JSON) are better when higher, cer and wer (errors by characters and words) when lower.",
      alias: ["metric_for_best_model"],
    }),
});
