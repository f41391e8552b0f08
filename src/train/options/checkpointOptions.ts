/** Options of a run's checkpoints and evaluations. */
import { z } from "zod";
import { count, dataFiles, group } from "../../options.ts";
import { METRIC_NAMES } from "../evaluate/scores.ts";
import { interval } from "./interval.ts";

/** When a run ends early, as a configuration writes it and as every part of lorafit reads it. */
export const EarlyStop = z.strictObject({ patience: count, min_delta: z.number().min(0).default(0) });
export type EarlyStop = z.output<typeof EarlyStop>;

export const checkpointOptions = group("Checkpoints and evaluation", {
  save_every: interval.default(100).meta({
    help: "Steps from one checkpoint to the next, or the least time between them: 90s, 10min, 1h.",
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
  early_stop: z
    .union([z.int().min(0), EarlyStop])
    .optional()
    .meta({
      help: "Number of evaluations in a row without an improvement after which the run ends; 0: never. An improvement is a lower loss, or a better --metric, than at the last improvement. Default: never.",
      value: "N",
      takes: "a number of evaluations, or {patience: N, min_delta: X}",
      alias: ["early_stopping_patience"],
    }),
  early_stop_min_delta: z
    .number()
    .min(0)
    .optional()
    .meta({
      help: "Difference that an evaluation must exceed to count as an improvement, in units of the loss or of --metric. Default: 0.",
      alias: ["early_stopping_threshold"],
    }),
});

/** Returns when a run ends early, from the forms that flags and configurations have; undefined: never. */
export function earlyStopOf({
  early_stop: given,
  early_stop_min_delta,
}: {
  early_stop?: number | EarlyStop | undefined;
  early_stop_min_delta?: number | undefined;
}): EarlyStop | undefined {
  const { patience, min_delta } = typeof given === "object" ? given : { patience: given ?? 0, min_delta: 0 };
  return patience === 0 ? undefined : { patience, min_delta: early_stop_min_delta ?? min_delta };
}
