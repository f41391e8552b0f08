/** Scores of evaluations: every number of a record that says how good its answers are. */
import type { EvalRecord } from "../../../src/server/ui/api.ts";

const NOT_SCORES = new Set(["step", "loss", "samples", "labelTokens", "unanswered", "unevaluated"]);
const NAMES: Readonly<Record<string, string>> = {
  exactMatch: "exact match",
  anls: "ANLS",
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
    (pair): pair is [string, number] => typeof pair[1] === "number" && !NOT_SCORES.has(pair[0]),
  );
  return Object.fromEntries(scores);
}
