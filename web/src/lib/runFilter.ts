/** Finds runs by words, and sorts them. */
import type { RunSummary } from "../../../src/server/ui/api.ts";
import { RUN_STATES } from "./words.ts";

/**
 * Returns the runs that match every word: a part of the path, a state, a sweep's id with `sweep:`, or an
 * option with its value, such as lora_r=8.
 */
export function matchingRuns(runs: readonly RunSummary[], words: string): RunSummary[] {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  return runs.filter((run) => wanted.every((word) => matches(run, word)));
}

function matches(run: RunSummary, word: string): boolean {
  if (word.startsWith("sweep:")) return run.sweep?.id.toLowerCase() === word.slice("sweep:".length);
  const equals = word.indexOf("=");
  if (equals > 0) {
    const [name, value] = [word.slice(0, equals).replaceAll("-", "_"), word.slice(equals + 1)];
    const own = run.options[name];
    return own !== undefined && (sameNumber(own, value) || textOf(own).includes(value));
  }
  const states = [run.state, RUN_STATES[run.state].name];
  return run.path.toLowerCase().includes(word) || states.some((state) => state.startsWith(word));
}

/** An option that is a number must be that number, so that lora_r=1 does not find 16. */
function sameNumber(own: unknown, value: string): boolean {
  return typeof own === "number" && Number(value) === own;
}

function textOf(own: unknown): string {
  return typeof own === "number" ? "" : String(own).toLowerCase();
}

export type SortKey = keyof typeof SORT_VALUES;

const STATE_ORDER = ["running", "failed", "crashed", "interrupted", "finished"];

/** Numbers and texts to sort by; runs without a value come last in both directions. */
export const SORT_VALUES = {
  name: (run: RunSummary) => run.path,
  state: (run: RunSummary) => STATE_ORDER.indexOf(run.state),
  step: (run: RunSummary) => run.step,
  loss: (run: RunSummary) => run.lastLoss,
  best: (run: RunSummary) => run.bestEval?.loss,
  planned: (run: RunSummary) => run.plannedPeakBytes,
  peak: (run: RunSummary) => run.peakBytes,
  speed: (run: RunSummary) => run.tokensPerSecond,
  age: (run: RunSummary) => -run.updatedAtMs,
} as const;

export interface Sort {
  key: SortKey;
  isDescending: boolean;
}

export function sortedRuns(runs: readonly RunSummary[], { key, isDescending }: Sort): RunSummary[] {
  const sorted: (run: RunSummary) => number | string | null | undefined = SORT_VALUES[key];
  const direction = isDescending ? -1 : 1;
  return [...runs].sort((one, other) => {
    const [a, b] = [sorted(one), sorted(other)];
    if (a === undefined || a === null) return b === undefined || b === null ? 0 : 1;
    if (b === undefined || b === null) return -1;
    const order =
      typeof a === "string" || typeof b === "string"
        ? String(a).localeCompare(String(b), "en", { numeric: true })
        : a - b;
    return direction * order;
  });
}
