/** The allocations of a step in order, each with its place: phase, layer, and the lines that asked for it. */
import { callStack, type Frame, forgetStacks } from "../../torch/callStacks.ts";
import {
  type AllocationLog,
  CATEGORIES,
  type Category,
  POOLS,
  type Pool,
  readAllocations,
  type TrackedDevice,
} from "../../torch/device.ts";
import { watchTensors } from "../../torch/handle.ts";

/** An allocation of `bytes`, or a free if `bytes` is below zero. */
export interface TraceEvent {
  phase: string;
  pool: Pool;
  category: Category;
  bytes: number;
}

/** An allocation or a free of the block with this id. */
export interface StepEvent extends TraceEvent {
  id: number;
  /** Decoder layer, from 0; absent outside of layers. */
  layer?: number;
  /** Lines of source that asked for the allocation, the innermost first; absent if they were not recorded. */
  stack?: readonly Frame[];
}

/** Parts of a phase that are done, and all. */
export interface Part {
  done: number;
  total: number;
}

/** Collects events, which learn their phase and layer when a part of the step ends. */
export class StepEvents {
  readonly events: StepEvent[] = [];
  #settled = 0;
  #last: (Part & { phase: string }) | undefined;

  /** Adds a log. stack: where the program was at its last event. only: leaves out the other pool. */
  add(
    { ids, bytes, pools, categories }: AllocationLog,
    { stack, only }: { stack?: readonly Frame[]; only?: Pool | undefined } = {},
  ): void {
    for (let at = 0; at < ids.length; at++) {
      const pool = POOLS[pools[at]!]!;
      if (only && pool !== only) continue;
      const event = {
        phase: "",
        pool,
        category: CATEGORIES[categories[at]!]!,
        bytes: bytes[at]!,
        id: ids[at]!,
      };
      this.events.push(stack && event.bytes > 0 ? { ...event, stack } : event);
    }
  }

  /** Ends a part of a phase: what was added since the last one belongs to it. */
  passed(phase: string, part?: Part): void {
    const layer = part && layerOf(phase, part, this.#last);
    for (; this.#settled < this.events.length; this.#settled++)
      Object.assign(this.events[this.#settled]!, { phase, ...(layer !== undefined && { layer }) });
    this.#last = part && { phase, ...part };
  }
}

/** Returns the layer that was computed up to a report. Before it, another report said how many were done. */
function layerOf(
  phase: string,
  { total }: Part,
  last: (Part & { phase: string }) | undefined,
): number | undefined {
  const done = last?.phase === phase ? Math.min(last.done, total - 1) : 0;
  if (phase === "forward") return done;
  return phase === "backward" ? total - 1 - done : undefined;
}

/** Reads the log at every new tensor, so that each allocation has the lines that asked for it. */
export function withStacks(device: TrackedDevice, events: StepEvents): Disposable {
  watchTensors(() => {
    const log = readAllocations(device);
    if (log.ids.length > 0) events.add(log, { stack: callStack() });
  });
  return {
    [Symbol.dispose]() {
      watchTensors(undefined);
      forgetStacks();
    },
  };
}
