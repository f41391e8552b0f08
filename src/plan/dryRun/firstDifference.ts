/**
 * The first place where a measured trace takes more than the planned one: two runs of events laid side by
 * side.
 */
import { CATEGORIES, type Category, type Pool } from "../../torch/device.ts";
import type { StepTrace, TraceEvent } from "./allocations.ts";

export type Parting =
  /** A category that already held more before the first event. */
  | { at: "start"; category: Category; plannedBytes: number; measuredBytes: number }
  /**
   * An event of the measured trace, what the plan has in its place, and by how much it is above the plan from
   * there on.
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
   * Bytes above the plan. Places with at least half as much above it are looked for: kernels free their
   * temporaries in an order of their own.
   */
  excessBytes: number;
  /** An allocator rounds sizes up to multiples of this. */
  roundBytes: number;
}

/**
 * Events that may be missing on either side before the traces agree again, and how many then have to agree.
 */
const MOST_SKIPPED = 100;
const AGREEING = 4;

/**
 * Undefined where there is none. Scratch memory of kernels' threads, which comes in any order, is left out.
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
 * How many events of the plan and of the run to leave out until they agree again, as few as will do; all the
 * rest where they don't.
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
