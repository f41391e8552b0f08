/** Scores of evaluations: every number of a record that says how good its answers are. */
import type { EvalRecord } from "../../../src/server/ui/api.ts";

const NOT_SCORES = new Set(["step", "loss", "samples", "labelTokens", "unanswered", "unevaluated"]);
/** The exact match stands in records under both names. */
const TWINS = new Set(["exact_match"]);
const NAMES: Readonly<Record<string, string>> = {
  exactMatch: "exact match",
  exact_match: "exact match",
  anls: "ANLS",
  cer: "CER",
  wer: "WER",
  f1: "F1",
  evalLoss: "evaluation loss",
};

export function scoreName(name: string): string {
  return NAMES[name] ?? name;
}

/** Returns the scores of an evaluation by name, also those that stand in a record of their own. */
export function scoresOf(record: EvalRecord): Record<string, number> {
  const own = Object.entries(record as unknown as Record<string, unknown>);
  const nested = own.flatMap(([, value]) =>
    typeof value === "object" && value !== null ? Object.entries(value as Record<string, unknown>) : [],
  );
  const scores = [...own, ...nested].filter(
    (pair): pair is [string, number] =>
      typeof pair[1] === "number" &&
      !NOT_SCORES.has(pair[0]) &&
      !("exactMatch" in record && TWINS.has(pair[0])),
  );
  return Object.fromEntries(scores);
}
