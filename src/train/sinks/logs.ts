/**
 * Numbers of a run by the names that transformers' Trainer gives them, so that people's dashboards find
 * them: loss, grad_norm, learning_rate and eval_loss. Further ones are lorafit's own.
 */
import type { EvalRecord, StepRecord } from "../folder/runLog.ts";

/** Numbers of one step by name; those of an evaluation begin with "eval_". */
export type Logs = Record<string, number>;

export function logsOfStep(record: StepRecord): Logs {
  const { loss, gradNorm, lr, epoch, tokens, tokensPerSecond, stepMs, dataWaitRatio } = record;
  return finite({
    ...{ loss, grad_norm: gradNorm, learning_rate: lr, epoch, tokens, tokens_per_second: tokensPerSecond },
    ...{ step_seconds: stepMs / 1000, data_wait_ratio: dataWaitRatio },
    ...{ peak_bytes: record.peakBytes, host_peak_bytes: record.hostPeakBytes },
    planned_peak_bytes: record.plannedPeakBytes,
    reserved_peak_bytes: record.reservedPeakBytes,
  });
}

export function logsOfEvaluation({ loss, exactMatch, anls, metrics = {}, ...record }: EvalRecord): Logs {
  const named = Object.entries({ exact_match: exactMatch, anls, ...metrics, samples: record.samples });
  return finite({
    eval_loss: loss,
    ...Object.fromEntries(named.map(([name, value]) => [`eval_${name}`, value])),
  });
}

/** Returns the tag that TensorBoard groups by: "eval_loss" is "eval/loss", "loss" is "train/loss". */
export function tagOf(name: string): string {
  return name.startsWith("eval_") ? `eval/${name.slice("eval_".length)}` : `train/${name}`;
}

function finite(values: Record<string, number | undefined>): Logs {
  const there = Object.entries(values).filter((entry): entry is [string, number] =>
    Number.isFinite(entry[1]),
  );
  return Object.fromEntries(there);
}
