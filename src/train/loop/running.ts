/** A run whose loop has begun. */
import type { SampleSource } from "../../data/samples/sample.ts";
import type { Tensor } from "../../torch/tensor.ts";
import type { StepRecord } from "../folder/runLog.ts";
import type { Together } from "../ranks/together.ts";
import type { Late } from "./lateReading.ts";
import type { PeakWatch } from "./peakWatch.ts";
import type { Run } from "./run.ts";

export interface Running extends Run {
  signal: AbortSignal | undefined;
  /** The step after which this part of the run stops; Infinity: the run's last. */
  stopAtStep: number;
  /** The time, and when the last checkpoint was saved or this part of the run began. */
  clock: { nowMs: () => number; savedMs: number };
  watch: PeakWatch;
  /** Queued work that is not reported yet. */
  late: Late;
  under: StepUnderWay;
  /** Set if steps are taken together with other ranks, or in their way. */
  together: Together | undefined;
}

/** A step as far as this process has seen it; what a checkpoint has of it is in the run's state. */
export interface StepUnderWay {
  samples: SampleSource[];
  /** Norm of all its gradients, () on the device, once its last micro-batch is queued. */
  norm: Tensor | undefined;
  /** That norm as a number, once the micro-batch has been reported. */
  gradientNorm: number | undefined;
  slowest: StepRecord["slowest"];
  /** Weight times loss of each micro-batch. */
  weightedLosses: number[];
  /** Set if ranks took the step: their number, and the time that they waited for the slowest on average. */
  ranks: { ranks: number; waitedMs: number } | undefined;
}

export const beginStep = (): StepUnderWay => ({
  ...{ samples: [], norm: undefined, gradientNorm: undefined, slowest: undefined },
  ...{ weightedLosses: [], ranks: undefined },
});
