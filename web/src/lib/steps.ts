/** The history of a run's steps in columns: it grows at its end and never holds more than the page can draw. */
import { thinnedPlaces } from "../../../src/runs/thinning.ts";
import type { StepColumns } from "../../../src/server/ui/api.ts";

/** Points to ask the server for; a history of twice as many is thinned. */
export const MOST_POINTS = 4_000;

type NumberColumn = Exclude<keyof StepColumns, "peakByCategory">;

const COLUMNS = [
  ...(["step", "loss", "gradNorm", "lr", "tokens", "tokensPerSecond", "stepMs", "dataWaitRatio"] as const),
  ...(["epoch", "peakBytes", "hostPeakBytes", "plannedPeakBytes", "reservedPeakBytes"] as const),
] satisfies NumberColumn[];

export function noSteps(): StepColumns {
  const empty = Object.fromEntries(COLUMNS.map((name) => [name, []])) as unknown as StepColumns;
  return { ...empty, peakByCategory: {} };
}

/** Returns the history with newer steps at its end. Steps that it has already are left out. */
export function appendSteps(history: StepColumns, added: StepColumns, most = MOST_POINTS): StepColumns {
  const last = history.step.at(-1) ?? Number.NEGATIVE_INFINITY;
  const fresh = indicesWhere(added.step, (step) => step > last);
  if (fresh.length === 0) return history;
  const [before, more] = [history.step.length, fresh.length];
  const joined = mapColumns(history, (values, name) => [...values, ...pick(columnOf(added, name), fresh)]);
  const categories = new Set([...Object.keys(history.peakByCategory), ...Object.keys(added.peakByCategory)]);
  joined.peakByCategory = Object.fromEntries(
    [...categories].map((category) => {
      const key = category as keyof StepColumns["peakByCategory"];
      const older = history.peakByCategory[key] ?? new Array<number>(before).fill(0);
      const newer = added.peakByCategory[key];
      return [key, [...older, ...(newer ? pick(newer, fresh) : new Array<number>(more).fill(0))]];
    }),
  );
  return joined.step.length > 2 * most ? thinned(joined, most) : joined;
}

/** Returns about `most` of the steps: of each stretch the lowest and the highest loss, and both ends. */
export function thinned(history: StepColumns, most: number): StepColumns {
  if (history.step.length <= most) return history;
  const indices = thinnedPlaces(history.loss, most);
  const thin = mapColumns(history, (values) => pick(values, indices));
  thin.peakByCategory = Object.fromEntries(
    Object.entries(history.peakByCategory).map(([category, values]) => [category, pick(values, indices)]),
  );
  return thin;
}

/**
 * Returns the sum of a column up to each step. Steps that were left out count as the mean of their
 * neighbours; `total`, if known, is the sum up to the last step, and corrects that estimate.
 */
export function sumsOf(
  { step, ...columns }: Pick<StepColumns, "step" | "tokens" | "stepMs">,
  name: "tokens" | "stepMs",
  total?: number,
): number[] {
  let [sum, before, valueBefore] = [0, 0, undefined as number | undefined];
  const sums = columns[name].map((logged, index) => {
    const value = logged ?? valueBefore ?? 0;
    const missing = Math.max(0, (step[index] ?? before + 1) - before - 1);
    sum += missing * (((valueBefore ?? value) + value) / 2) + value;
    before = step[index] ?? before + 1;
    valueBefore = value;
    return sum;
  });
  const isExact = step.at(-1) === step.length;
  const scale = !isExact && total && sum > 0 ? total / sum : 1;
  return scale === 1 ? sums : sums.map((each) => each * scale);
}

function columnOf(columns: StepColumns, name: NumberColumn): (number | null)[] {
  return columns[name] as (number | null)[];
}

function mapColumns(
  history: StepColumns,
  change: (values: (number | null)[], name: NumberColumn) => (number | null)[],
): StepColumns {
  const changed = COLUMNS.map((name) => [name, change(columnOf(history, name), name)]);
  return { ...(Object.fromEntries(changed) as unknown as StepColumns), peakByCategory: {} };
}

function pick<T>(values: readonly T[], indices: readonly number[]): T[] {
  return indices.map((index) => values[index]!);
}

function indicesWhere(values: readonly number[], holds: (value: number) => boolean): number[] {
  return values.flatMap((value, index) => (holds(value) ? [index] : []));
}
