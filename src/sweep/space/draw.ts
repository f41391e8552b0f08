/** Chooses the trials of a sweep: every combination, or random ones. No trial comes twice. */
import { permutation, randomAt } from "../../data/stream/random.ts";
import { formatCount, UsageError } from "../../errors.ts";
import { type Axis, type Space, trialOptions } from "./space.ts";
import { gridOf, type RangeValues, valueAt } from "./values.ts";

/** Options of a trial that differ from those of other trials. */
export type Combination = Record<string, unknown>;

/** More trials than anybody waits for. */
const MOST_TRIALS = 1000;

/** A stream of random numbers that is far from those of training. */
const SWEEP_STREAM = 2 ** 41;

/** Spaces up to this size are shuffled as a whole. */
const MOST_SHUFFLED = 2 ** 16;

/** Draws for each trial that is wanted, before a space counts as exhausted. */
const MOST_DRAWS = 100;

/** Returns every combination; the last option changes fastest. Throws UsageError for an open range. */
export function gridTrials(space: Space): Combination[] {
  const open = space.axes.find(({ values }) => isOpenRange(values));
  if (open)
    throw new UsageError(`${open.key}: a grid needs the number of values of a range.`, {
      fix: "Add it, as {log: [5e-5, 1e-3], count: 5} or log:5e-5..1e-3:5, or pass --strategy random.",
    });
  const size = sizeOf(space);
  if (size > MOST_TRIALS)
    throw new UsageError(`A grid of ${formatCount(size)} trials is more than ${formatCount(MOST_TRIALS)}.`, {
      fix: "Pass --strategy random and --trials, or fewer values.",
    });
  return distinct(space, allOf(space, size));
}

/**
 * Returns random combinations, the same ones for the same seed; fewer if there are no more. Throws UsageError
 * for more trials than anybody waits for.
 */
export function randomTrials(space: Space, trials: number, seed: number): Combination[] {
  const size = sizeOf(space);
  if (Math.min(trials, size) > MOST_TRIALS)
    throw new UsageError(
      `${formatCount(Math.min(trials, size))} trials are more than ${formatCount(MOST_TRIALS)}.`,
      {
        fix: `Pass --trials ${MOST_TRIALS}, or fewer.`,
      },
    );
  if (size <= MOST_SHUFFLED) return distinct(space, shuffled(space, size, seed)).slice(0, trials);
  return distinct(space, drawn(space, seed, MOST_DRAWS * trials), trials);
}

/** Number of combinations; Infinity with a range that has no count. */
export function sizeOf({ axes }: Space): number {
  return axes.reduce((size, { values }) => size * (discrete(values)?.length ?? Number.POSITIVE_INFINITY), 1);
}

function* allOf(space: Space, size: number): Generator<Combination> {
  for (let index = 0; index < size; index++) yield combinationAt(space, index);
}

function* shuffled(space: Space, size: number, seed: number): Generator<Combination> {
  for (const index of permutation(size, seed, SWEEP_STREAM)) yield combinationAt(space, index);
}

/** Draws from ranges, and from spaces that are too large to shuffle. */
function* drawn({ axes }: Space, seed: number, most: number): Generator<Combination> {
  for (let draw = 0; draw < most; draw++) {
    const entries = axes.map(({ key, values }, axis): [string, unknown] => {
      const random = randomAt(seed, SWEEP_STREAM + 1 + axis, draw);
      const known = discrete(values);
      return [key, known ? known[Math.floor(random * known.length)] : valueAt(values as RangeValues, random)];
    });
    yield Object.fromEntries(entries);
  }
}

function combinationAt({ axes }: Space, index: number): Combination {
  let rest = index;
  const entries = axes.toReversed().map(({ key, values }): [string, unknown] => {
    const known = discrete(values)!;
    const value = known[rest % known.length];
    rest = Math.floor(rest / known.length);
    return [key, value];
  });
  return Object.fromEntries(entries.reverse());
}

/** Returns the values of a list, or of a range with a count; undefined for an open range. */
function discrete(values: Axis["values"]): unknown[] | undefined {
  if (values.kind === "list") return values.values;
  return isOpenRange(values) ? undefined : gridOf(values as RangeValues & { count: number });
}

function isOpenRange(values: Axis["values"]): boolean {
  return values.kind === "range" && values.count === undefined;
}

/** Returns at most so many combinations, without those that mean the same: alpha 8 and 1x of a rank of 8. */
function distinct(
  { base, axes }: Space,
  combinations: Iterable<Combination>,
  most = MOST_TRIALS,
): Combination[] {
  const found = new Map<string, Combination>();
  for (const combination of combinations) {
    const options = trialOptions({ ...base, ...combination });
    const differing = Object.fromEntries(axes.map(({ key }) => [key, options[key]]));
    const name = JSON.stringify(differing);
    if (!found.has(name)) found.set(name, differing);
    if (found.size >= Math.min(most, MOST_TRIALS)) break;
  }
  return [...found.values()];
}
