/**
 * Finds the first place where a measured trace needs more memory than the planned one, by comparing their
 * events one by one.
 */
import { CATEGORIES, type Category, type Pool } from "../../torch/device.ts";
import type { StepTrace } from "./allocations.ts";
import type { TraceEvent } from "./stepEvents.ts";

export type Parting =
  /** A category that already held more bytes before the first event. */
  | { at: "start"; category: Category; plannedBytes: number; measuredBytes: number }
  /**
   * An event of the measured trace, the plan's event in its place, and the bytes above the plan from there
   * on.
   */
  | {
      at: "event";
      index: number;
      measured: TraceEvent;
      planned: TraceEvent | undefined;
      excessBytes: number;
    };

export interface PartingOptions {
  pool: Pool;
  /**
   * Bytes above the plan. The search reports the first place with at least half as many, because kernels free
   * their temporaries in an order of their own.
   */
  excessBytes: number;
  /** Bytes; the allocator rounds sizes up to multiples of this. */
  roundBytes: number;
}

/**
 * Maximum number of events that one side may lack before the traces agree again, and how many must then
 * agree.
 */
const MOST_SKIPPED = 100;
const AGREEING = 4;

/**
 * Returns the first difference; undefined if there is none. Ignores scratch memory of kernels' threads, which
 * comes in any order.
 */
export function firstParting(
  planned: StepTrace,
  measured: StepTrace,
  options: PartingOptions,
): Parting | undefined {
  const { pool, excessBytes, roundBytes } = options;
  for (const category of CATEGORIES) {
    const [plannedBytes, measuredBytes] = [planned, measured].map(({ before }) => before[pool][category]);
    if (measuredBytes! - plannedBytes! >= excessBytes / 2)
      return { at: "start", category, plannedBytes: plannedBytes!, measuredBytes: measuredBytes! };
  }
  const [plan, run] = [planned, measured].map((trace) => eventsIn(trace, pool, roundBytes));
  return partingOf(plan!, run!, excessBytes / 2);
}

interface Numbered extends TraceEvent {
  index: number;
}

function eventsIn({ events }: StepTrace, pool: Pool, roundBytes: number): Numbered[] {
  return events.flatMap((event, index) => {
    if (event.pool !== pool || event.category === "workspace") return [];
    const bytes = Math.sign(event.bytes) * Math.ceil(Math.abs(event.bytes) / roundBytes) * roundBytes;
    return { ...event, bytes, index };
  });
}

function partingOf(
  plan: readonly Numbered[],
  run: readonly Numbered[],
  toleratedBytes: number,
): Parting | undefined {
  let [at, beside] = [0, 0];
  let aboveBytes = 0;
  while (beside < run.length) {
    if (isSame(plan[at], run[beside]!)) {
      [at, beside] = [at + 1, beside + 1];
      continue;
    }
    const [missing, extra] = skipsAt(plan, at, run, beside);
    const added = run.slice(beside, beside + extra);
    aboveBytes += sumOf(added) - sumOf(plan.slice(at, at + missing));
    if (aboveBytes > toleratedBytes) {
      const worst = added.reduce((most, event) => (event.bytes > most.bytes ? event : most), run[beside]!);
      const instead = plan[at];
      return {
        ...{ at: "event", index: worst.index, measured: eventOf(worst), excessBytes: aboveBytes },
        planned: instead && eventOf(instead),
      };
    }
    [at, beside] = [at + missing, beside + extra];
  }
  return undefined;
}

/**
 * Returns how many events of the plan and of the run to skip until they agree again: as few as possible, or
 * all the rest if they never agree.
 */
function skipsAt(
  plan: readonly Numbered[],
  at: number,
  run: readonly Numbered[],
  beside: number,
): [missing: number, extra: number] {
  for (let skipped = 1; skipped <= MOST_SKIPPED; skipped++) {
    for (let missing = 0; missing <= skipped; missing++) {
      if (agree(plan, at + missing, run, beside + skipped - missing)) return [missing, skipped - missing];
    }
  }
  return [plan.length - at, run.length - beside];
}

function agree(plan: readonly Numbered[], at: number, run: readonly Numbered[], beside: number): boolean {
  const count = Math.min(AGREEING, Math.max(plan.length - at, run.length - beside));
  for (let next = 0; next < count; next++) {
    const event = run[beside + next];
    if (!event || !isSame(plan[at + next], event)) return false;
  }
  return true;
}

function isSame(one: Numbered | undefined, other: Numbered): boolean {
  return one !== undefined && one.category === other.category && one.bytes === other.bytes;
}

function eventOf({ phase, pool, category, bytes }: Numbered): TraceEvent {
  return { phase, pool, category, bytes };
}

function sumOf(events: readonly TraceEvent[]): number {
  return events.reduce((sum, { bytes }) => sum + bytes, 0);
}
