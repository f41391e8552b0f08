/** The memory of one step over time, small enough for a chart: the highest point of each short stretch. */
import { CATEGORIES, type Category, POOLS, type Pool } from "../../torch/device.ts";
import type { StepTrace } from "../dryRun/allocations.ts";
import type { TraceEvent } from "../dryRun/stepEvents.ts";

/** Bytes alive in both pools at consecutive moments of a step. */
export interface StepProfile {
  /** Phases in their order, with the number of moments of each. */
  phases: { name: string; moments: number }[];
  /**
   * Bytes by category, a number for each moment: what was alive when the device's pool was at its highest in
   * that moment. Categories that hold nothing are absent.
   */
  device: CategoryBytes;
  /** Bytes of the host's pool, likewise. */
  host: CategoryBytes;
}

export type CategoryBytes = Partial<Record<Category, number[]>>;

/** Most moments of a profile, beside one for each phase. */
const MOMENTS = 400;

/** Returns the profile of a step. Two steps that allocate alike have the same moments. */
export function profileOf({ before, events }: StepTrace): StepProfile {
  const pools = { device: new LivePool(before.device), host: new LivePool(before.host) };
  const phases: StepProfile["phases"] = [];
  for (const stretch of stretchesOf(events)) {
    const name = stretch[0]!.phase;
    for (const pool of POOLS) pools[pool].startMoment();
    for (const { pool, category, bytes } of stretch) pools[pool].book(category, bytes);
    for (const pool of POOLS) pools[pool].endMoment();
    const last = phases.at(-1);
    if (last?.name === name) last.moments++;
    else phases.push({ name, moments: 1 });
  }
  return { phases, device: pools.device.byCategory(), host: pools.host.byCategory() };
}

/** Cuts events into stretches of equal length, and where a phase ends. */
function stretchesOf(events: readonly TraceEvent[]): TraceEvent[][] {
  const mostEvents = Math.max(1, Math.ceil(events.length / MOMENTS));
  const stretches: TraceEvent[][] = [];
  for (const event of events) {
    const last = stretches.at(-1);
    if (last && last.length < mostEvents && last[0]!.phase === event.phase) last.push(event);
    else stretches.push([event]);
  }
  return stretches;
}

class LivePool {
  readonly #live: Record<Category, number>;
  #liveBytes: number;
  #highestBytes = 0;
  #highest: Record<Category, number>;
  readonly #moments: Record<Category, number>[] = [];

  constructor(before: Record<Category, number>) {
    this.#live = { ...before };
    this.#highest = before;
    this.#liveBytes = Object.values(before).reduce((sum, bytes) => sum + bytes, 0);
  }

  startMoment(): void {
    this.#highestBytes = this.#liveBytes;
    this.#highest = { ...this.#live };
  }

  book(category: Category, bytes: number): void {
    this.#live[category] += bytes;
    this.#liveBytes += bytes;
    if (this.#liveBytes <= this.#highestBytes) return;
    this.#highestBytes = this.#liveBytes;
    this.#highest = { ...this.#live };
  }

  endMoment(): void {
    this.#moments.push(this.#highest);
  }

  byCategory(): CategoryBytes {
    const held = CATEGORIES.filter((name) => this.#moments.some((bytes) => bytes[name] > 0));
    return Object.fromEntries(held.map((name) => [name, this.#moments.map((bytes) => bytes[name])]));
  }
}

/** Returns the most bytes that a pool of a profile holds. */
export function peakOf(profile: StepProfile, pool: Pool): number {
  return totalsOf(profile, pool).reduce((most, bytes) => Math.max(most, bytes), 0);
}

/** Returns the bytes of a pool at each moment, all categories together. */
export function totalsOf(profile: StepProfile, pool: Pool): number[] {
  const columns = Object.values(profile[pool]);
  const moments = profile.phases.reduce((sum, phase) => sum + phase.moments, 0);
  return Array.from({ length: moments }, (_, at) => columns.reduce((sum, bytes) => sum + bytes[at]!, 0));
}

/**
 * Returns values of one profile at the moments of another: phase by phase, since two runs of a phase may
 * differ in length. A phase that the first lacks has no value.
 */
export function alignedTo(
  { phases }: StepProfile,
  other: { phases: StepProfile["phases"]; values: readonly number[] },
): (number | undefined)[] {
  const starts = new Map<string, { from: number; moments: number }>();
  let from = 0;
  for (const { name, moments } of other.phases) {
    if (!starts.has(name)) starts.set(name, { from, moments });
    from += moments;
  }
  return phases.flatMap(({ name, moments }) => {
    const there = starts.get(name);
    return Array.from({ length: moments }, (_, at) => {
      if (!there) return undefined;
      const share = moments === 1 ? 0 : at / (moments - 1);
      return other.values[there.from + Math.round(share * (there.moments - 1))];
    });
  });
}
