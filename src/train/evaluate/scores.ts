/**
 * Scores answers against expected ones. METRICS lists every metric, with its source; docs/training.md says
 * what each ignores. Needs no engine: a sweep and the page compare runs by the same table.
 */
import { fieldsOf } from "./fields.ts";

/** Share of answers in a metric: over many answers, the metric is the sum of parts by the sum of wholes. */
export interface Score {
  part: number;
  whole: number;
}

export interface Metric {
  /** Name for people. */
  title: string;
  better: "higher" | "lower";
  /** Scores one answer against an expected one; undefined if the expected answer has nothing to score. */
  score(answer: string, expected: string): Score | undefined;
}

/**
 * The metrics of answers by their names in options and records.
 *
 * exact_match: Mathew et al., "DocVQA", arXiv:2007.00398 (accuracy), with the normalisation of ANLS.
 * anls: Biten et al., "Scene Text Visual Question Answering", arXiv:1905.13648, section 4.2.
 * cer, wer: Morris et al., "From WER and RIL to MER and WIL", 2004; sums over all answers, as jiwer has them.
 * field_f1: JSONParseEvaluator.cal_f1 of Donut (arXiv:2111.15664), micro-averaged; the F1 of SROIE's task 3.
 */
// biome-ignore format: columns line up
export const METRICS = {
  exact_match: { title: "exact match", better: "higher", score: (answer, expected) => ({ part: exactMatch(answer, expected), whole: 1 }) },
  anls:        { title: "ANLS",        better: "higher", score: (answer, expected) => ({ part: anls(answer, expected), whole: 1 }) },
  cer:         { title: "CER",         better: "lower",  score: (answer, expected) => errors([...answer.trim()], [...expected.trim()]) },
  wer:         { title: "WER",         better: "lower",  score: (answer, expected) => errors(wordsOf(answer), wordsOf(expected)) },
  field_f1:    { title: "field F1",    better: "higher", score: fieldScore },
} as const satisfies Record<string, Metric>;

export type MetricName = keyof typeof METRICS;
export const METRIC_NAMES = Object.keys(METRICS) as [MetricName, ...MetricName[]];

/** Values of metrics; those that nothing was scored by are absent. */
export type Metrics = Partial<Record<MetricName, number>>;
/** Scores of one answer by metric; metrics that the expected answer has nothing for are absent. */
export type Scores = Partial<Record<MetricName, Score>>;

/**
 * Scores an answer by every metric. With several expected answers, each metric takes the one that is best for
 * it.
 */
export function scoresOf(answer: string, ...expected: [string, ...string[]]): Scores {
  const scored = METRIC_NAMES.map((name) => {
    const scores = expected.flatMap((one) => METRICS[name].score(answer, one) ?? []);
    const best = scores.reduce<Score | undefined>(
      (best, score) => (!best || isBetter(name, ratioOf(name, score), ratioOf(name, best)) ? score : best),
      undefined,
    );
    return [name, best] as const;
  });
  return Object.fromEntries(scored.filter(([, score]) => score)) as Scores;
}

/** Returns each metric over all of these answers. */
export function metricsOf(answers: readonly Scores[]): Metrics {
  const totals = METRIC_NAMES.map((name) => {
    const scores = answers.flatMap(({ [name]: score }) => score ?? []);
    const total = { part: sum(scores.map(({ part }) => part)), whole: sum(scores.map(({ whole }) => whole)) };
    return [name, scores.length > 0 ? ratioOf(name, total) : undefined] as const;
  });
  return Object.fromEntries(totals.filter(([, value]) => value !== undefined)) as Metrics;
}

/** Returns the metrics of a record, also of an older one, which has two of them as fields of their own. */
export function allMetrics({
  exactMatch,
  anls,
  metrics,
}: {
  exactMatch?: number;
  anls?: number;
  metrics?: Metrics;
}): Metrics {
  return {
    ...(exactMatch !== undefined && { exact_match: exactMatch }),
    ...(anls !== undefined && { anls }),
    ...metrics,
  };
}

/** Whether a value of a metric is better than another. */
export function isBetter(name: MetricName, value: number, than: number): boolean {
  return METRICS[name].better === "higher" ? value > than : value < than;
}

/** Divides; where nothing is expected, nothing is perfect, and each error counts as one, as in jiwer 4. */
function ratioOf(name: MetricName, { part, whole }: Score): number {
  if (whole > 0) return part / whole;
  return METRICS[name].better === "higher" ? 1 : part;
}

/** Below this similarity an answer counts as wrong. */
const ANLS_THRESHOLD = 0.5;

/** Returns 1 if the texts are equal, else 0; ignores case and white space around and between words. */
export function exactMatch(answer: string, expected: string): number {
  return normalise(answer) === normalise(expected) ? 1 : 0;
}

/**
 * Returns the normalised Levenshtein similarity, or 0 if it is below the threshold. A similarity of exactly
 * one half counts, as in the competition's script; the paper has 0 there.
 */
export function anls(answer: string, expected: string): number {
  const [left, right] = [[...normalise(answer)], [...normalise(expected)]];
  const longest = Math.max(left.length, right.length);
  const similarity = longest === 0 ? 1 : 1 - editDistance(left, right) / longest;
  return similarity < ANLS_THRESHOLD ? 0 : similarity;
}

/** Counts the insertions, deletions and substitutions that turn one sequence into the other. */
export function editDistance<T>(left: readonly T[], right: readonly T[]): number {
  let above = Array.from({ length: right.length + 1 }, (_, column) => column);
  for (const [row, symbol] of left.entries()) {
    const current = [row + 1];
    for (const [column, other] of right.entries()) {
      const substituted = (above[column] ?? 0) + (symbol === other ? 0 : 1);
      current.push(Math.min(substituted, (above[column + 1] ?? 0) + 1, (current[column] ?? 0) + 1));
    }
    above = current;
  }
  return above[right.length] ?? 0;
}

function errors<T>(answer: readonly T[], expected: readonly T[]): Score {
  return { part: editDistance(answer, expected), whole: expected.length };
}

function wordsOf(text: string): string[] {
  return text.split(/\s+/u).filter(Boolean);
}

/**
 * Counts the fields that answer and expected answer share: the part of F1 = matches / (matches + (missing +
 * surplus) / 2). An answer that is not JSON has no fields.
 */
function fieldScore(answer: string, expected: string): Score | undefined {
  const wanted = fieldsOf(expected);
  if (!wanted) return undefined;
  const given = fieldsOf(answer) ?? [];
  const left = new Map<string, number>();
  for (const field of wanted) left.set(field, (left.get(field) ?? 0) + 1);
  const matches = given.filter((field) => {
    const count = left.get(field) ?? 0;
    left.set(field, count - 1);
    return count > 0;
  }).length;
  return { part: matches, whole: (wanted.length + given.length) / 2 };
}

function normalise(text: string): string {
  return text.trim().toLowerCase().replace(/\s+/gu, " ");
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
