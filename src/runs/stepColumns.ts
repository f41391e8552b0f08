/** Steps as columns: a third of the size of records, and the form that charts draw. */
import { setImmediate } from "node:timers/promises";
import type { Category } from "../torch/device.ts";
import type { StepRecord } from "../train/folder/runLog.ts";
import { type Cursor, parseLines, readAppended } from "./logTail.ts";
import type { StepColumns } from "./runView.ts";
import { thinnedPlaces } from "./thinning.ts";

const NUMBERS = [
  ...["loss", "gradNorm", "lr", "tokens", "tokensPerSecond", "stepMs", "dataWaitRatio", "epoch"],
  ...["peakBytes", "hostPeakBytes", "plannedPeakBytes", "reservedPeakBytes"],
] as const satisfies (keyof StepRecord)[];

export interface ReadSteps {
  columns: StepColumns;
  next: Cursor;
  /** Set if the cursor held no longer: the columns are from the beginning of the log. */
  isReset: boolean;
}

export function noSteps(): StepColumns {
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, [] as (number | null)[]]));
  return { step: [], ...numbers, peakByCategory: {} } as unknown as StepColumns;
}

/** Reads all steps after a cursor, letting the event loop turn between parts of a long log. */
export async function readSteps(path: string, cursor: Cursor = ""): Promise<ReadSteps> {
  let columns = noSteps();
  let next = cursor;
  let isReset = false;
  for (let leftBytes = 1; leftBytes > 0; await setImmediate()) {
    const read = readAppended(path, next);
    if (read.isReset) columns = noSteps();
    isReset ||= read.isReset;
    addRecords(columns, parseLines<StepRecord>(read.bytes));
    leftBytes = read.next === next ? 0 : read.leftBytes;
    next = read.next;
  }
  return { columns, next, isReset };
}

/** Adds records to columns, in place. A field that is missing, or no number, is null. */
export function addRecords(columns: StepColumns, records: readonly StepRecord[]): void {
  for (const record of records) {
    if (typeof record.step !== "number") continue;
    const at = columns.step.push(record.step) - 1;
    for (const name of NUMBERS) columns[name].push(numberOrNull(record[name]));
    for (const [category, bytes] of Object.entries(record.peakByCategory ?? {})) {
      if (typeof bytes !== "number") continue;
      columns.peakByCategory[category as Category] ??= Array<number>(at).fill(0);
      columns.peakByCategory[category as Category]!.push(bytes);
    }
    for (const held of Object.values(columns.peakByCategory)) if (held.length === at) held.push(0);
  }
}

/**
 * Returns about `points` of the steps: of each of equal stretches the one with the lowest and the one with
 * the highest loss, so that no spike is lost, and the first and the last step.
 */
export function thinned(columns: StepColumns, points: number): StepColumns {
  if (columns.step.length <= points) return columns;
  const places = thinnedPlaces(columns.loss, points);
  const picked = <T>(values: readonly T[]): T[] => places.map((at) => values[at]!);
  const byCategory = Object.entries(columns.peakByCategory).map(([name, bytes]) => [name, picked(bytes)]);
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, picked(columns[name])]));
  return {
    step: picked(columns.step),
    ...(numbers as Omit<StepColumns, "step" | "peakByCategory">),
    peakByCategory: Object.fromEntries(byCategory),
  };
}

function numberOrNull(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}
