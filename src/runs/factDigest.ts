/** Sums up the other logs of a run: its facts and its evaluations. */
import type { LoggedFact } from "../train/facts/runFact.ts";
import type { EvalRecord } from "../train/folder/runLog.ts";
import type { Cursor } from "./logTail.ts";

export interface FactDigest {
  cursor: Cursor;
  /** Time of the first start; 0 before it. */
  startedAtMs: number;
  totalSteps: number | undefined;
  options: Record<string, unknown>;
  plannedPeakBytes: number | undefined;
  limitBytes: number | undefined;
  stepDowns: number;
  /** How the last part of the run ended; undefined while it runs, and after kill -9. */
  end: { ended: "finished" | "interrupted" | "failed"; message?: string } | undefined;
}

export interface EvalDigest {
  cursor: Cursor;
  last: EvalRecord | undefined;
  /** The one with the lowest loss. */
  best: EvalRecord | undefined;
}

export function noFacts(): FactDigest {
  return {
    ...{ cursor: "", startedAtMs: 0, totalSteps: undefined, options: {}, stepDowns: 0, end: undefined },
    ...{ plannedPeakBytes: undefined, limitBytes: undefined },
  };
}

/** Adds facts to the digest, in place. */
export function addFacts(digest: FactDigest, facts: readonly LoggedFact[]): void {
  for (const fact of facts) {
    if (fact.fact === "start") {
      digest.startedAtMs ||= fact.atMs;
      digest.totalSteps = fact.totalSteps;
      digest.options = typeof fact.options === "object" && fact.options !== null ? fact.options : {};
      digest.end = undefined;
    } else if (fact.fact === "plan") {
      digest.plannedPeakBytes = fact.step?.deviceBytes;
      digest.limitBytes = fact.limits?.deviceBytes;
    } else if (fact.fact === "leaner") {
      digest.stepDowns += 1;
    } else if (fact.fact === "end") {
      const { ended } = fact;
      digest.end = ended === "failed" ? { ended, message: String(fact.message) } : { ended };
    }
  }
}

export function noEvals(): EvalDigest {
  return { cursor: "", last: undefined, best: undefined };
}

/** Adds evaluations to the digest, in place. */
export function addEvals(digest: EvalDigest, records: readonly EvalRecord[]): void {
  for (const record of records) {
    digest.last = record;
    if (typeof record.loss !== "number") continue; // null: not finite
    if (!digest.best || record.loss < digest.best.loss) digest.best = record;
  }
}
