/**
 * The choice of the next token from its logits, in the order of transformers: penalty, temperature, top-p.
 */
import { UserError } from "../../errors.ts";

export interface Sampling {
  /** 0: always the likeliest token. */
  temperature: number;
  /** Draws from the likeliest tokens that hold this share of the probability; 1: from all. */
  topP: number;
  /** Logits of tokens seen before are divided by it, negative ones multiplied; 1: nothing changes. */
  repetitionPenalty: number;
  /** With one seed, prompt and settings the answer is always the same. */
  seed: number;
}

export const GREEDY: Sampling = { temperature: 0, topP: 1, repetitionPenalty: 1, seed: 0 };

/**
 * Id of the next token. Changes `logits`; `seen` are the ids that the penalty counts, `uniform` is drawn from
 * [0, 1).
 */
export function chooseToken(
  logits: Float32Array,
  seen: ReadonlySet<number>,
  { temperature, topP, repetitionPenalty }: Omit<Sampling, "seed">,
  uniform: number,
): number {
  penaliseSeen(logits, seen, repetitionPenalty);
  const best = indexOfLargest(logits);
  if (!Number.isFinite(logits[best])) {
    throw new UserError("The model's output for the next token is not a number.", {
      fix: "Check that the adapter belongs to this model and that its training did not end in NaN.",
    });
  }
  if (temperature === 0) return best;
  const weights = Float64Array.from(logits, (logit) =>
    Math.exp((logit - (logits[best] as number)) / temperature),
  );
  return drawFrom(weights, topP, uniform);
}

function penaliseSeen(logits: Float32Array, seen: ReadonlySet<number>, repetitionPenalty: number): void {
  const penalty = Math.fround(repetitionPenalty);
  if (penalty === 1) return;
  for (const id of seen) {
    const logit = logits[id];
    if (logit !== undefined) logits[id] = logit < 0 ? logit * penalty : logit / penalty;
  }
}

/** The first index of the largest value, or of the first NaN. */
function indexOfLargest(values: Float32Array): number {
  let best = 0;
  for (let index = 0; index < values.length; index++) {
    const value = values[index] as number;
    if (Number.isNaN(value)) return index;
    if (value > (values[best] as number)) best = index;
  }
  return best;
}

/**
 * Index drawn in proportion to `weights` among the likeliest: one is kept while those before it hold less
 * than topP.
 */
function drawFrom(weights: Float64Array, topP: number, uniform: number): number {
  const { leastWeight, leastCount, keptWeight } = nucleus(weights, topP);
  let spareAtLeast = leastCount;
  let remaining = uniform * keptWeight;
  let last = 0;
  for (let index = 0; index < weights.length; index++) {
    const weight = weights[index] as number;
    if (weight < leastWeight || (weight === leastWeight && spareAtLeast-- <= 0)) continue;
    last = index;
    remaining -= weight;
    if (remaining < 0) break;
  }
  return last;
}

/**
 * The least weight that top-p keeps, how many of that very weight it keeps, and the sum of all that is kept.
 */
function nucleus(
  weights: Float64Array,
  topP: number,
): { leastWeight: number; leastCount: number; keptWeight: number } {
  const ascending = weights.slice().sort();
  const wanted = topP * ascending.reduce((sum, weight) => sum + weight, 0);
  let index = ascending.length - 1;
  let keptWeight = ascending[index] as number;
  let leastCount = 1;
  while (index > 0 && keptWeight < wanted) {
    index--;
    keptWeight += ascending[index] as number;
    leastCount = ascending[index] === ascending[index + 1] ? leastCount + 1 : 1;
  }
  return { leastWeight: ascending[index] as number, leastCount, keptWeight };
}
