/** A run whose loop has begun. */
import type { SampleSource } from "../../data/samples/sample.ts";
import type { Tensor } from "../../torch/tensor.ts";
import type { StepRecord } from "../folder/runLog.ts";
import type { Late } from "./lateReading.ts";
import type { PeakWatch } from "./peakWatch.ts";
import type { Run } from "./run.ts";

export interface Running extends Run {
  signal: AbortSignal | undefined;
  watch: PeakWatch;
  /** What is queued and not reported yet. */
  late: Late;
  under: StepUnderWay;
}

/** A step as far as this process has seen it; what a checkpoint has of it is in the run's state. */
export interface StepUnderWay {
  samples: SampleSource[];
  /** Norm of all its gradients, () on the device, once its last micro-batch is queued. */
  norm: Tensor | undefined;
  /** The same number, once that micro-batch has been reported. */
  gradientNorm: number | undefined;
  slowest: StepRecord["slowest"];
}

export const beginStep = (): StepUnderWay => ({
  ...{ samples: [], norm: undefined, gradientNorm: undefined, slowest: undefined },
});
