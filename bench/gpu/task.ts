/** What bench/gpu/run.ts tells the processes that it measures, and what they answer. */
import type { CopyTimes } from "../../src/torch/copies.ts";
import type { GpuCase } from "./matrix.ts";

/** Paths are absolute. */
export interface GpuTask {
  case: GpuCase;
  device: "cpu" | `cuda:${number}`;
  picture: string;
  /** The peer's: pixels of the tiles and the global view, ids, targets and rows of the picture. */
  batch: string;
  model: object;
  vision: object;
  /** "plain", or "kernels" for Liger's, Unsloth's and bitsandbytes' where they can be imported. */
  variant: "plain" | "kernels";
}

export interface GpuReport {
  seconds: number;
  loss: number;
  /** Weights included. */
  peakBytes: number;
  /** What the caching allocator held for it, in use or not; of a CPU nothing is told. */
  reservedPeakBytes?: number | undefined;
  /** How long the step waited for its pictures; part of `seconds`. A peer has them at hand, and tells nothing. */
  dataWaitMs?: number;
  copies?: CopyTimes;
}
