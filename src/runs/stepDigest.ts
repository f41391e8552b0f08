/**
 * Sums up the steps of a run as they are appended: plain data of limited size, however long the run, so that
 * it can be kept between two starts of the page.
 */
import type { StepRecord } from "../train/folder/runLog.ts";
import type { Cursor } from "./logTail.ts";
import type { SlowMicroBatch } from "./runView.ts";

export interface StepDigest {
  /** Place in steps.jsonl up to which this sums up. */
  cursor: Cursor;
  steps: number;
  /** The last record's. */
  step: number;
  loss: number | null;
  tokens: number;
  elapsedMs: number;
  peakBytes: number;
  plannedPeakBytes: number;
  /** Memory by category in the step with the highest peak. */
  peakByCategory: NonNullable<StepRecord["peakByCategory"]>;
  /** Tokens and milliseconds of the last steps. */
  recent: [tokens: number, stepMs: number][];
  /** Means of equal parts of the run: the losses of `width` steps each. */
  losses: { width: number; sums: number[]; counts: number[] };
  slowest: SlowMicroBatch[];
}

const RECENT_STEPS = 20;
export const MOST_PARTS = 40;
const MOST_SLOW = 10;

export function emptyDigest(): StepDigest {
  return {
    ...{ cursor: "", steps: 0, step: 0, loss: null, tokens: 0, elapsedMs: 0 },
    ...{ peakBytes: 0, plannedPeakBytes: 0, peakByCategory: {}, recent: [] },
    losses: { width: 1, sums: [], counts: [] },
    slowest: [],
  };
}

/** Adds records to the digest, in place. */
export function addSteps(digest: StepDigest, records: readonly StepRecord[]): void {
  for (const record of records) {
    digest.losses = withLoss(digest.losses, digest.steps, record.loss);
    digest.steps += 1;
    digest.step = number(record.step);
    digest.loss = record.loss ?? null;
    digest.tokens += number(record.tokens);
    digest.elapsedMs += number(record.stepMs);
    digest.plannedPeakBytes = Math.max(digest.plannedPeakBytes, number(record.plannedPeakBytes));
    if (number(record.peakBytes) > digest.peakBytes) {
      digest.peakBytes = record.peakBytes;
      digest.peakByCategory = record.peakByCategory ?? {};
    }
    digest.recent.push([number(record.tokens), number(record.stepMs)]);
    if (digest.recent.length > RECENT_STEPS) digest.recent.shift();
    addSlow(digest.slowest, record);
  }
}

/** Returns the means of the parts; null for a part without a finite loss. */
export function lossParts({ losses: { sums, counts } }: StepDigest): (number | null)[] {
  return sums.map((sum, part) => (counts[part] ? sum / counts[part]! : null));
}

/** Returns tokens per second and milliseconds a step over the last steps; undefined before the first. */
export function recentSpeed({ recent }: StepDigest): { tokensPerSecond: number; stepMs: number } | undefined {
  const [tokens, ms] = recent.reduce(([tokens, ms], [some, more]) => [tokens + some, ms + more], [0, 0]);
  return ms > 0 ? { tokensPerSecond: (1000 * tokens) / ms, stepMs: ms / recent.length } : undefined;
}

/** Adds the loss of step number `at`, from 0. When there are too many parts, each two become one. */
function withLoss(losses: StepDigest["losses"], at: number, loss: number | null): StepDigest["losses"] {
  const part = Math.floor(at / losses.width);
  if (part >= MOST_PARTS) {
    const merged = (values: number[]): number[] =>
      Array.from({ length: MOST_PARTS / 2 }, (_, pair) => values[2 * pair]! + values[2 * pair + 1]!);
    const { width, sums, counts } = losses;
    return withLoss({ width: 2 * width, sums: merged(sums), counts: merged(counts) }, at, loss);
  }
  const isNumber = typeof loss === "number";
  losses.sums[part] = (losses.sums[part] ?? 0) + (isNumber ? loss : 0);
  losses.counts[part] = (losses.counts[part] ?? 0) + (isNumber ? 1 : 0);
  return losses;
}

function addSlow(slowest: SlowMicroBatch[], { step, slowest: slow }: StepRecord): void {
  if (!slow || !Array.isArray(slow.samples)) return;
  const elapsedMs = number(slow.elapsedMs);
  if (slowest.length === MOST_SLOW && slowest.at(-1)!.elapsedMs >= elapsedMs) return;
  const at = slowest.findIndex((other) => other.elapsedMs < elapsedMs);
  const entry = { step, samples: slow.samples, tokens: number(slow.tokens), elapsedMs };
  slowest.splice(at < 0 ? slowest.length : at, 0, entry);
  if (slowest.length > MOST_SLOW) slowest.pop();
}

/** Returns a number of a record; 0 for one that is missing, null or no number. */
function number(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}
