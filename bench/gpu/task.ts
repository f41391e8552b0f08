/** Messages between bench/gpu/run.ts and the processes that it measures. */
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
  /** Bytes that the caching allocator reserved, in use or not; undefined on a CPU. */
  reservedPeakBytes?: number | undefined;
  /**
   * Seconds that the step waited for pictures, part of `seconds`; undefined for peers, which have them at
   * hand.
   */
  dataWaitMs?: number;
  copies?: CopyTimes;
}
