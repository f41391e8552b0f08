/** What bench/gpu/run.ts tells the processes that it measures, and what they answer. */
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
}
