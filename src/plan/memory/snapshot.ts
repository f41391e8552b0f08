/**
 * The allocations of a step as a snapshot for pytorch.org/memory_viz and `python -m torch.cuda._memory_viz`.
 *
 * Source of the format: torch/cuda/_memory_viz.py and torch/utils/viz/MemoryViz.js of PyTorch. The device's
 * pool is device 0, the host's pool device 1. Addresses are those that PyTorch's caching allocator would give
 * with growing segments. Time is the number of the event.
 */
import { type Picklable, pickled } from "../../checkpoint/files/pickleWriter.ts";
import { plural } from "../../errors.ts";
import type { Frame } from "../../torch/callStacks.ts";
import { CATEGORIES, type OutOfMemoryError, POOLS, type Pool } from "../../torch/device.ts";
import type { StepTrace } from "../dryRun/allocations.ts";
import type { StepEvent } from "../dryRun/stepEvents.ts";
import { type Block, CachingAllocator } from "./cachingAllocator.ts";

export interface Snapshot {
  /** Content of the file. */
  pickle: Buffer;
  /** Number of allocations that are left out, with their frees, because a viewer can't show so many. */
  leftOut: number;
}

/** A viewer becomes unusable with more. */
export const MOST_EVENTS = 100_000;
/** Events beside those of the step: segments, memory that was held before, the end. */
const OTHER_EVENTS = 2000;
/** An allocation is one event. A free is two: requested and completed. */
const PAIR_EVENTS = 3;
/** An address that a process could have. */
const FIRST_ADDRESS = 0x7f0000000000;

/** Address of the page that shows a snapshot. The file never leaves the reader's browser. */
export const VIEWER = "https://pytorch.org/memory_viz";

/** ", without its 12 smallest blocks": for the message about a snapshot. Empty if nothing is left out. */
export function leftOutWords(leftOut: number): string {
  return leftOut === 0 ? "" : `, without ${plural(leftOut, "small block")} that the step also frees`;
}

/** Returns the snapshot of a step. ranOut: the allocation that failed at its end. */
export function snapshotOf(trace: StepTrace<StepEvent>, ranOut?: OutOfMemoryError): Snapshot {
  const { leftOut, ...value } = snapshotValue(trace, ranOut);
  return { pickle: pickled(value), leftOut };
}

/** Content of a snapshot, and the number of allocations that it leaves out. */
export interface SnapshotValue {
  segments: Record<string, Picklable>[];
  device_traces: Record<string, Picklable>[][];
  leftOut: number;
}

/** Returns the content of a step's snapshot. */
export function snapshotValue(trace: StepTrace<StepEvent>, ranOut?: OutOfMemoryError): SnapshotValue {
  const { events, leftOut } = shortened(trace.events);
  const pools = POOLS.flatMap((pool) => {
    const own = events.filter((event) => event.pool === pool);
    const held = heldBefore(trace.before[pool], own, pool);
    if (pool === "host" && held.length + own.length === 0) return [];
    const traced = new TracedPool();
    for (const event of [...held, ...own]) traced.take(event);
    return traced.end(ranOut?.pool === pool ? ranOut : undefined);
  });
  return {
    segments: pools.flatMap(({ segments }, device) => segments.map((one) => ({ device, ...one }))),
    device_traces: pools.map((pool) => pool.events),
    leftOut,
  };
}

/** Leaves out the smallest blocks that the step both allocates and frees, if there are too many events. */
function shortened(events: readonly StepEvent[]): { events: readonly StepEvent[]; leftOut: number } {
  const shownEvents = events.reduce((sum, { bytes }) => sum + (bytes > 0 ? 1 : 2), 0);
  const excess = shownEvents - (MOST_EVENTS - OTHER_EVENTS);
  if (excess <= 0) return { events, leftOut: 0 };
  const begun = new Map<string, StepEvent>();
  const pairs: { key: string; bytes: number }[] = [];
  for (const event of events) {
    const key = keyOf(event);
    if (event.bytes > 0) begun.set(key, event);
    else if (begun.has(key)) pairs.push({ key, bytes: -event.bytes });
  }
  pairs.sort((one, other) => one.bytes - other.bytes);
  const left = new Set(pairs.slice(0, Math.ceil(excess / PAIR_EVENTS)).map(({ key }) => key));
  return { events: events.filter((event) => !left.has(keyOf(event))), leftOut: left.size };
}

function keyOf({ pool, id }: StepEvent): string {
  return `${pool} ${id}`;
}

/**
 * Returns allocations of what was alive before the first event: of each block that is freed later, and one of
 * the rest of each category. So a viewer knows the category of everything.
 */
function heldBefore(
  before: StepTrace["before"][Pool],
  events: readonly StepEvent[],
  pool: Pool,
): StepEvent[] {
  const restBytes = { ...before };
  const begun = new Set<number>();
  const freed: StepEvent[] = [];
  for (const { id, bytes, category } of events) {
    if (bytes > 0) begun.add(id);
    else if (!begun.has(id)) {
      freed.push({ phase: BEFORE, pool, category, bytes: -bytes, id });
      restBytes[category] += bytes;
    }
  }
  const rest = CATEGORIES.filter((category) => restBytes[category] > 0).map(
    (category, at): StepEvent => ({ phase: BEFORE, pool, category, bytes: restBytes[category], id: -1 - at }),
  );
  return [...rest, ...freed];
}

const BEFORE = "held before the step";

/** A block in use. */
interface Live {
  block: Block;
  address: number;
  bytes: number;
  frames: readonly Frame[];
}

interface TracedEvents {
  events: Record<string, Picklable>[];
  /** The segments at the end. */
  segments: Record<string, Picklable>[];
}

/** Turns the events of one pool into those of PyTorch's allocator. */
class TracedPool {
  readonly events: Record<string, Picklable>[] = [];
  readonly #live = new Map<number, Live>();
  /** Mapped ranges of addresses: start to end. They do not touch. */
  readonly #mapped = new Map<number, number>();
  readonly #frames = new FrameLists();
  readonly #allocator = new CachingAllocator({
    expandableSegments: true,
    onMap: (address, bytes) => this.#map(FIRST_ADDRESS + address, bytes),
  });

  /** Adds an allocation or a free. */
  take(event: StepEvent): void {
    if (event.bytes > 0) this.#allocate(event);
    else this.#free(event.id);
  }

  /** Ends the trace, with the allocation that failed if one did. */
  end(ranOut: OutOfMemoryError | undefined): TracedEvents {
    if (ranOut) {
      const { requestedBytes, liveBytes, capBytes = liveBytes, category = "workingSet" } = ranOut;
      const device_free = Math.max(0, capBytes - liveBytes);
      this.#add({ action: "oom", device_free, size: requestedBytes, frames: [], category });
    }
    // the viewer fails if categories are there without one of this name
    this.#add({ action: "snapshot", addr: 0, size: 0, frames: [], category: "unknown" });
    return { events: this.events, segments: this.#segments() };
  }

  #allocate(event: StepEvent): void {
    const { id, bytes, category } = event;
    const block = this.#allocator.allocate(bytes)!; // without a limit there is always room
    const address = FIRST_ADDRESS + block.address;
    const frames = this.#frames.of(event);
    this.#live.set(id, { block, address, bytes, frames });
    this.#add({ action: "alloc", addr: address, size: bytes, frames, category });
  }

  #free(id: number): void {
    const known = this.#live.get(id);
    if (!known) return; // left out with its allocation
    this.#live.delete(id);
    this.#allocator.free(known.block);
    const { address: addr, bytes: size } = known;
    this.#add({ action: "free_requested", addr, size, frames: [] });
    this.#add({ action: "free_completed", addr, size, frames: [] });
  }

  #map(start: number, bytes: number): void {
    this.#add({ action: "segment_map", addr: start, size: bytes, frames: [] });
    let [from, end] = [start, start + bytes];
    const after = this.#mapped.get(end);
    if (after !== undefined) {
      this.#mapped.delete(end);
      end = after;
    }
    for (const [before, beforeEnd] of this.#mapped) if (beforeEnd === start) from = before;
    this.#mapped.set(from, end);
  }

  #add(event: Record<string, Picklable | readonly Frame[]>): void {
    this.events.push({ ...event, stream: 0, time_us: this.events.length } as Record<string, Picklable>);
  }

  #segments(): Record<string, Picklable>[] {
    const blocks = [...this.#live.values()].sort((one, other) => one.address - other.address);
    return [...this.#mapped]
      .sort(([one], [other]) => one - other)
      .map(([start, end]) =>
        segmentOf(
          start,
          end,
          blocks.filter(({ address }) => address >= start && address < end),
        ),
      );
  }
}

/** Returns a segment: blocks in use, and the free ranges between them. */
function segmentOf(start: number, end: number, live: readonly Live[]): Record<string, Picklable> {
  const blocks: Picklable[] = [];
  let at = start;
  const free = (until: number): void => {
    if (until > at)
      blocks.push({ address: at, size: until - at, requested_size: 0, state: "inactive", frames: [] });
    at = until;
  };
  for (const { block, address, bytes, frames } of live) {
    free(address);
    const shown = { address, size: block.bytes, requested_size: bytes, state: "active_allocated" };
    blocks.push({ ...shown, frames } as unknown as Picklable);
    at = address + block.bytes;
  }
  free(end);
  const sum = (of: (one: Live) => number): number => live.reduce((total, one) => total + of(one), 0);
  const allocatedBytes = sum(({ block }) => block.bytes);
  return {
    ...{ address: start, total_size: end - start, stream: 0, segment_type: "large", is_expandable: true },
    ...{
      allocated_size: allocatedBytes,
      active_size: allocatedBytes,
      requested_size: sum(({ bytes }) => bytes),
    },
    ...{ segment_pool_id: [0, 0], frames: [], blocks },
  };
}

/** Lists of frames. Equal ones are the same list, so that a pickle has each once. */
class FrameLists {
  readonly #known = new Map<readonly Frame[], Map<string, readonly Frame[]>>();

  /** Returns the lines of source that asked for an allocation, then its place in the step. */
  of({ phase, layer, category, stack = [] }: StepEvent): readonly Frame[] {
    const place = placeName(phase, layer, stack, category);
    const lists = this.#known.get(stack) ?? new Map<string, readonly Frame[]>();
    this.#known.set(stack, lists);
    const list = lists.get(place) ?? [...stack, { name: place, filename: "lorafit", line: layer ?? 0 }];
    lists.set(place, list);
    return list;
  }
}

/** Functions that are a half of a layer. */
const SEGMENTS = { attention: /attention/i, MLP: /mlp/i } as const;

/** Names a place: "backward, layer 3, attention: workingSet". */
function placeName(
  phase: string,
  layer: number | undefined,
  stack: readonly Frame[],
  category: string,
): string {
  if (layer === undefined) return `${phase}: ${category}`;
  const segment = stack
    .flatMap(({ name }) => Object.entries(SEGMENTS).flatMap(([half, is]) => (is.test(name) ? half : [])))
    .at(-1);
  return `${phase}, layer ${layer}${segment ? `, ${segment}` : ""}: ${category}`;
}
