/** Figures of the GPU bench's steps, from its worker's measurements. */
import { median } from "../workers.ts";
import type { GpuReport } from "./task.ts";

/** Shares are 0..1; undefined where a side does not tell. */
export interface Figures {
  /** Milliseconds of the median step. */
  seconds: number;
  /** The 95th percentile of a step, relative to the one in the middle. */
  steadiness: number;
  peakBytes: number;
  reservedPeakBytes: number | undefined;
  /** Share of the steps' time spent waiting for pictures. */
  dataStallShare: number | undefined;
  /** Share of the copies' time that nothing waited for; undefined without copies. */
  hiddenShare: number | undefined;
}

/** Computes the figures of all steps except the first, which warms up. */
export function figuresOf(reports: readonly GpuReport[]): Figures {
  const steps = reports.slice(1);
  const seconds = steps.map((report) => report.seconds);
  const middle = median(seconds);
  return {
    seconds: middle,
    steadiness: percentile(seconds, 0.95) / middle,
    peakBytes: Math.max(...reports.map(({ peakBytes }) => peakBytes)),
    reservedPeakBytes: most(reports.flatMap(({ reservedPeakBytes }) => reservedPeakBytes ?? [])),
    dataStallShare: share(steps, ({ dataWaitMs }) => dataWaitMs, 1000 * sum(seconds)),
    hiddenShare: hiddenShare(steps),
  };
}

/** The smallest value that so many of all do not exceed. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)]!;
}

/**
 * Returns the step's share of the rate of a large product, counted on the FLOPs that the step cannot avoid.
 */
export function rateShare(flops: number, seconds: number, flopsPerSecond: number): number {
  return flops / seconds / flopsPerSecond;
}

/** Waiting may go on longer than a copy takes: it may wait for its turn. */
function hiddenShare(steps: readonly GpuReport[]): number | undefined {
  const copyMs = total(steps, ({ copies }) => copies?.copyMs);
  const waitedMs = total(steps, ({ copies }) => copies?.waitedMs);
  return copyMs && waitedMs !== undefined ? Math.max(0, 1 - waitedMs / copyMs) : undefined;
}

function share(
  steps: readonly GpuReport[],
  of: (report: GpuReport) => number | undefined,
  all: number,
): number | undefined {
  const part = total(steps, of);
  return part === undefined ? undefined : part / all;
}

function total(
  steps: readonly GpuReport[],
  of: (report: GpuReport) => number | undefined,
): number | undefined {
  const values = steps.flatMap((step) => of(step) ?? []);
  return values.length === steps.length ? sum(values) : undefined;
}

function most(values: readonly number[]): number | undefined {
  return values.length > 0 ? Math.max(...values) : undefined;
}

function sum(values: readonly number[]): number {
  return values.reduce((all, value) => all + value, 0);
}
