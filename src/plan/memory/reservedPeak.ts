/**
 * Turns a step's allocations, logged on any device, into the peak that PyTorch's caching allocator reserves
 * for them on a CUDA card.
 */
import type { AllocationLog } from "../../torch/device.ts";
import { type AllocatorOptions, type Block, CachingAllocator } from "./cachingAllocator.ts";

/** The device's index among the pools that a log tells apart. */
const DEVICE_POOL = 0;

/** The part of a log that a replay reads; categories play no part. */
export type DeviceLog = Pick<AllocationLog, "ids" | "bytes" | "pools">;

export interface ReplayOptions extends AllocatorOptions {
  /** Blocks that libraries hold from the allocator throughout (a card's workspaceBytes). */
  workspaceBytes?: readonly number[];
}

export interface Replay {
  /** Peak of what was asked for. */
  requestedPeakBytes: number;
  /** Peak of the blocks handed out: what was asked for, rounded up. */
  allocatedPeakBytes: number;
  /** Peak of what was taken from the driver: what the card must have beside its context. */
  reservedPeakBytes: number;
  /** reservedPeakBytes less allocatedPeakBytes: what caching and cutting cost. */
  fragmentationBytes: number;
  /** Bytes of the blocks in use after the last event. */
  allocatedBytes: number;
  /** Held from the driver after the last event. */
  reservedBytes: number;
  /** Segments of fixed size after the last event. */
  segments: number;
  /** Times that the cache was given back to the driver in want of memory; each waits for the device. */
  flushes: number;
  /** The allocation that found no memory (-1: the workspace), where the replay ended, and what was held. */
  outOfMemory:
    | { event: number; requestedBytes: number; allocatedBytes: number; reservedBytes: number }
    | undefined;
}

/**
 * Replays the device's pool of a log through a model of the caching allocator. The log begins where nothing
 * that it frees is alive; throws where it frees what it did not allocate.
 */
export function replayAllocations(
  log: DeviceLog,
  { workspaceBytes = [], ...options }: ReplayOptions = {},
): Replay {
  const { ids, bytes, pools } = log;
  const allocator = new CachingAllocator(options);
  const refusal = (event: number, refusedBytes: number): Replay["outOfMemory"] => {
    const { allocatedBytes, reservedBytes } = allocator;
    return { event, requestedBytes: refusedBytes, allocatedBytes, reservedBytes };
  };
  const alive = new Map<number, Block>();
  let requestedBytes = workspaceBytes.reduce((sum, block) => sum + block, 0);
  let requestedPeakBytes = requestedBytes;
  const refused = workspaceBytes.find((block) => !allocator.allocate(block));
  let outOfMemory = refused ? refusal(-1, refused) : undefined;
  let allocatedPeakBytes = allocator.allocatedBytes;
  for (let event = 0; event < ids.length && !outOfMemory; event++) {
    if (pools[event] !== DEVICE_POOL) continue;
    const id = ids[event]!;
    const addedBytes = bytes[event]!;
    if (addedBytes > 0) {
      const block = allocator.allocate(addedBytes);
      if (!block) {
        outOfMemory = refusal(event, addedBytes);
        break;
      }
      alive.set(id, block);
    } else if (addedBytes < 0) {
      const block = alive.get(id);
      if (!block) throw new Error(`event ${event} frees block ${id}, which the log did not allocate`);
      alive.delete(id);
      allocator.free(block);
    }
    requestedBytes += addedBytes;
    requestedPeakBytes = Math.max(requestedPeakBytes, requestedBytes);
    allocatedPeakBytes = Math.max(allocatedPeakBytes, allocator.allocatedBytes);
  }
  const { allocatedBytes, reservedBytes, reservedPeakBytes, segments, flushes } = allocator;
  const fragmentationBytes = reservedPeakBytes - allocatedPeakBytes;
  return {
    requestedPeakBytes,
    allocatedPeakBytes,
    reservedPeakBytes,
    fragmentationBytes,
    allocatedBytes,
    reservedBytes,
    segments,
    flushes,
    outOfMemory,
  };
}
