/**
 * Turns a step's allocations, logged on any device, into the peak that PyTorch's caching allocator reserves
 * for them on a CUDA card.
 */
import type { AllocationLog } from "../../torch/device.ts";
import { type AllocatorOptions, type Block, CachingAllocator } from "./cachingAllocator.ts";

/** The device's index among the pools in a log. */
const DEVICE_POOL = 0;

/** The part of a log that a replay reads. Categories do not matter. */
export type DeviceLog = Pick<AllocationLog, "ids" | "bytes" | "pools">;

export interface ReplayOptions extends AllocatorOptions {
  /** Bytes of the blocks that libraries hold from the allocator throughout (a card's workspaceBytes). */
  workspaceBytes?: readonly number[];
}

export interface Replay {
  /** Peak of the requested bytes. */
  requestedPeakBytes: number;
  /** Peak of the blocks handed out: the requested bytes, rounded up. */
  allocatedPeakBytes: number;
  /** Peak of the bytes taken from the driver. The card must have them in addition to its context. */
  reservedPeakBytes: number;
  /** reservedPeakBytes less allocatedPeakBytes: the cost of caching and cutting. */
  fragmentationBytes: number;
  /** Bytes of the blocks in use after the last event. */
  allocatedBytes: number;
  /** Bytes held from the driver after the last event. */
  reservedBytes: number;
  /** Number of segments of fixed size after the last event. */
  segments: number;
  /**
   * Number of times that the cache was returned to the driver because memory ran out; each waits for the
   * device.
   */
  flushes: number;
  /**
   * The allocation that found no memory and ended the replay (-1: the workspace), and the bytes held then.
   */
  outOfMemory:
    | { event: number; requestedBytes: number; allocatedBytes: number; reservedBytes: number }
    | undefined;
}

/**
 * Replays the device's pool of a log through a model of the caching allocator. The log must begin before
 * every allocation that it frees. Throws if it frees something that it did not allocate.
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
