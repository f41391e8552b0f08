/** Writes the live line of a run: the most important facts on 80 columns, more on a wider terminal. */
import { formatBytes, formatCount } from "../../errors.ts";
import type { StepRecord } from "../../train/folder/runLog.ts";
import { bar, fitted, formatDuration, sparkline } from "../output/output.ts";

export interface LiveStep {
  /** Record of the last step. */
  record: StepRecord;
  totalSteps: number;
  /** Mean time of the last steps. */
  meanStepMs: number;
  /** Losses of the steps so far, oldest first. */
  losses: readonly number[];
  /** Memory limit; undefined without one. */
  capBytes: number | undefined;
}

const SPARK_COLUMNS = 16;
const BAR_COLUMNS = 9;

/**
 * Returns the line for a terminal of so many columns. `head` says where the run is: a step, or a phase of the
 * next one.
 */
export function liveLine(
  { record, totalSteps, meanStepMs, losses, capBytes }: LiveStep,
  columns: number,
  head = `step ${record.step}/${totalSteps}`,
): string {
  const { step, loss, lr, stepMs, tokensPerSecond, peakBytes, dataWaitRatio } = record;
  const leftMs = meanStepMs * (totalSteps - step);
  const bytes = capBytes === undefined ? formatBytes(peakBytes) : pairOf(peakBytes, capBytes);
  return fitted(
    [
      { rank: 0, text: head },
      { rank: 1, text: step < totalSteps ? `${formatDuration(leftMs)} left` : "" },
      { rank: 2, text: `${formatDuration(stepMs)}/step` },
      { rank: 3, text: `loss ${loss.toFixed(3)}` },
      { rank: 7, text: sparkline(losses.slice(-SPARK_COLUMNS), SPARK_COLUMNS) },
      { rank: 4, text: peakBytes === 0 ? "" : bytes },
      {
        rank: 8,
        text:
          peakBytes === 0 || capBytes === undefined
            ? ""
            : bar(peakBytes / capBytes, BAR_COLUMNS).padEnd(BAR_COLUMNS),
      },
      { rank: 5, text: `${formatCount(tokensPerSecond)} tok/s` },
      { rank: 6, text: rateOf(lr, step) },
      { rank: 9, text: `data ${Math.round(dataWaitRatio * 100)}%` },
    ],
    columns,
  );
}

/** Returns "19.6/24.0 GiB"; both with their units if these differ. */
function pairOf(peakBytes: number, capBytes: number): string {
  const [peak, cap] = [formatBytes(peakBytes), formatBytes(capBytes)];
  const [peakUnit, capUnit] = [peak, cap].map((amount) => amount.split(" ")[1]);
  return peakUnit === capUnit ? `${peak.split(" ")[0]}/${cap}` : `${peak} of ${cap}`;
}

/** Writes the learning rate. The first step of a warm-up is at 0, which must not look like a fault. */
function rateOf(lr: number, step: number): string {
  if (lr > 0) return `lr ${lr.toExponential(1)}`;
  return step === 1 ? "lr 0 (warm-up begins)" : "lr 0";
}
