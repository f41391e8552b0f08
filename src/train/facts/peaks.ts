/**
 * Memory peaks of a step as facts: measured beside planned, and what is wrong if they differ. All amounts are
 * bytes.
 */
import type { PoolPlan } from "../../plan/dryRun/dryRun.ts";
import type { Category, Pool } from "../../torch/device.ts";
import type { Peaks, Reserved } from "../machine/compute.ts";

export type PlannedPeaks = Record<Pool, PoolPlan> & Reserved;

export interface StepPeaks {
  measured: Peaks;
  /** Absent if nothing was planned. */
  planned?: PlannedPeaks;
  /** Whether the plan is of these very micro-batches, and not of the largest of their length classes. */
  isExact: boolean;
}

/** A pool that held more than planned, with the categories that differ, the largest difference first. */
export interface Defect {
  pool: Pool;
  plannedBytes: number;
  measuredBytes: number;
  /** The phase of the step in which the pool reached its peak: vision, forward, loss, backward or update. */
  phase: string;
  categories: { category: Category; plannedBytes: number; measuredBytes: number }[];
}

/** The file with the allocations of a defect, or of a step like it. */
export interface DefectTrace {
  file: string;
  of: "the same step" | "the next one like it" | "one like it";
}
