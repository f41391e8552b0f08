/** Memory of devices by pool and category, its caps, and other functions that concern a whole device. */
import { formatBytes, messageOf } from "../errors.ts";
import { type CardDevice, type Device, deviceCode, deviceOfCode, isCard } from "./dtypes.ts";
import { LIBTORCH_VERSION } from "./install/libtorch.ts";
import { native } from "./native.ts";
import { refuseDeferred } from "./tensor.ts";

/**
 * Kinds of memory: the device's own, and host memory that serves the device (pinned). On cpu, both are
 * simulated, so memory limits hold there too.
 */
export const POOLS = ["device", "host"] as const;
export type Pool = (typeof POOLS)[number];

/** Purposes of an allocation. Worker threads of kernels allocate in the last category, "workspace". */
export const CATEGORIES = [
  "weights",
  "loraParameters",
  "loraGradients",
  "optimizerState",
  "inputData",
  "visionFeatures",
  "boundaryActivations",
  "workingSet",
  "loss",
  "workspace",
] as const;
export type Category = (typeof CATEGORIES)[number];

/**
 * Devices whose allocations are tracked: all. A card's host pool is pinned memory; cpu tracks a host pool as
 * well.
 */
export type TrackedDevice = Device;

export interface MemoryStats {
  liveBytes: number;
  peakBytes: number;
  /** Bytes of the hard cap; undefined without one. */
  capBytes: number | undefined;
  /** Number of allocations since the peak was reset. */
  count: number;
  /** Number of live allocations. */
  liveCount: number;
  liveByCategory: Record<Category, number>;
  /** Bytes at the peak, by category. */
  peakByCategory: Record<Category, number>;
}

/**
 * Allocations and frees in order. Positive `bytes`: an allocation. Negative: the free of the block with this
 * id.
 */
export interface AllocationLog {
  ids: Float64Array;
  bytes: Float64Array;
  /** Indexes of POOLS. */
  pools: Uint8Array;
  /** Indexes of CATEGORIES. */
  categories: Uint8Array;
}

/** Error for an allocation that failed because of a pool's cap, an injected failure or the device. */
export class OutOfMemoryError extends Error {
  readonly requestedBytes: number;
  readonly liveBytes: number;
  /** Bytes of the cap; undefined without a cap, when the machine itself had no more memory. */
  readonly capBytes: number | undefined;
  readonly device: Device;
  readonly pool: Pool;
  /** The outermost category around the allocation: the part of a step that ran out of memory. */
  category: Category | undefined;

  constructor(
    requested: number,
    live: number,
    cap: number | undefined,
    device: number,
    pool: number,
    reason: string,
  ) {
    const limit = cap === undefined ? "" : `, cap ${formatBytes(cap)}`;
    const where = deviceOfCode(device) + (pool === 0 ? "" : " (host pool)");
    super(
      requested > 0
        ? `out of memory on ${where}: ${formatBytes(requested)} requested, ${formatBytes(live)} live${limit}`
        : reason,
    );
    this.name = "OutOfMemoryError";
    this.requestedBytes = requested;
    this.liveBytes = live;
    this.capBytes = cap;
    this.device = deviceOfCode(device);
    this.pool = POOLS[pool] ?? "device";
  }
}

native.setOutOfMemoryClass(OutOfMemoryError);
native.setCategory(CATEGORIES.indexOf("workingSet"));

/** Runs the body and counts its allocations in this pool. */
export function pool<T>(name: Pool, body: () => T extends PromiseLike<unknown> ? never : T): T {
  return booked(native.setPool, POOLS.indexOf(name), `pool("${name}")`, body);
}

/** Runs the body and counts its allocations in this category. Outside of any, it is "workingSet". */
export function category<T>(name: Category, body: () => T extends PromiseLike<unknown> ? never : T): T {
  try {
    return booked(native.setCategory, CATEGORIES.indexOf(name), `category("${name}")`, body);
  } catch (thrown) {
    if (thrown instanceof OutOfMemoryError) thrown.category = name;
    throw thrown;
  }
}

/**
 * Returns live and peak bytes of a pool, as requested from the allocator.
 * On cpu, and in a plan for cpu, blocks of at most 8 bytes are not counted. Kernels on cpu wrap plain numbers
 * as tensors; cards do not.
 */
export function memoryStats(device: TrackedDevice, of: Pool = "device"): MemoryStats {
  const numbers = native.memoryStats(deviceCode(device), POOLS.indexOf(of));
  const [liveBytes = 0, peakBytes = 0, cap = -1, count = 0, liveCount = 0] = numbers;
  return {
    liveBytes,
    peakBytes,
    capBytes: cap < 0 ? undefined : cap,
    count,
    liveCount,
    liveByCategory: byCategory(numbers.slice(5, 5 + CATEGORIES.length)),
    peakByCategory: byCategory(numbers.slice(5 + CATEGORIES.length)),
  };
}

/**
 * Restarts the peak at the live bytes, and the count of allocations. For a card, also restarts the peak that
 * its allocator has reserved.
 */
export function resetPeak(device: TrackedDevice, of: Pool = "device"): void {
  native.resetPeak(deviceCode(device), POOLS.indexOf(of));
}

/**
 * Sets a cap on a pool, in bytes; undefined removes it. An allocation above it throws OutOfMemoryError.
 * On a card, the cap limits what the caching allocator holds, used or unused. So a large card behaves like a
 * small one.
 */
export function setCap(device: TrackedDevice, bytes: number | undefined, of: Pool = "device"): void {
  native.setCap(deviceCode(device), POOLS.indexOf(of), bytes);
}

/**
 * Makes the n-th allocation from now throw OutOfMemoryError (1: the next one; 0: cancels this). For tests;
 * not available on a card.
 */
export function failAtAllocation(device: TrackedDevice, n: number): void {
  native.failAtAllocation(deviceCode(device), n);
}

/** Runs the body. Returns its result and all its allocations and frees, of both pools, in order. */
export function recordAllocations<T>(
  device: TrackedDevice,
  body: () => T extends PromiseLike<unknown> ? never : T,
): { result: T; log: AllocationLog } {
  native.recordAllocations(deviceCode(device), true);
  try {
    const result: T = body();
    refuseDeferred(result, "recordAllocations");
    return { result, log: readAllocations(device) };
  } finally {
    native.recordAllocations(deviceCode(device), false);
  }
}

/**
 * Starts or stops the log of a device's allocations and frees, for work that takes several turns of the event
 * loop. `readAllocations` reads the log.
 */
export function logAllocations(device: TrackedDevice, on: boolean): void {
  native.recordAllocations(deviceCode(device), on);
}

/** Returns the log since recording began, or since the last call. */
export function readAllocations(device: TrackedDevice): AllocationLog {
  const [ids, bytes, pools, categories] = native.takeAllocations(deviceCode(device));
  if (!ids || !bytes || !pools || !categories)
    throw new Error("the engine's allocation log has four columns");
  return {
    ids: new Float64Array(ids.buffer),
    bytes: new Float64Array(bytes.buffer),
    pools,
    categories,
  };
}

/** The device that meta kernels imitate. */
export type PlanTarget =
  | { device: "cpu" }
  | { device: "cuda"; multiprocessors?: number; computeCapability?: number };

let target: PlanTarget = { device: "cpu" };

/** Returns the device that is planned for; cpu outside of planningFor. */
export function planTarget(): { device: "cpu" } | { device: "cuda"; computeCapability: number } {
  return target.device === "cpu"
    ? { device: "cpu" }
    : { device: "cuda", computeCapability: target.computeCapability ?? 8 };
}

/**
 * Returns the compute capability of the card that is planned for, for example 89; 0 if the plan is not for a
 * card.
 */
export function plannedCapability(): number {
  const planned = planTarget();
  return planned.device === "cuda" ? Math.round(10 * planned.computeCapability) : 0;
}

/**
 * Runs the body. Meta kernels in it allocate like kernels of this device; outside, like those of cpu. A
 * card's also depend on its number of multiprocessors and compute capability (default: 8.0).
 */
export function planningFor<T>(
  wanted: PlanTarget,
  body: () => T extends PromiseLike<unknown> ? never : T,
): T {
  const before = target;
  const multiprocessors = wanted.device === "cuda" ? (wanted.multiprocessors ?? 0) : 0;
  const [wasCuda, wasMultiprocessors] = native.setPlanTarget(wanted.device === "cuda", multiprocessors);
  target = wanted;
  try {
    const result: T = body();
    refuseDeferred(result, "planningFor");
    return result;
  } finally {
    target = before;
    native.setPlanTarget(wasCuda, wasMultiprocessors);
  }
}

/** Returns the number of live tensors. Each is a handle, and several may share memory. */
export function liveTensors(): number {
  return native.liveTensors();
}

/** Sets the number of threads for kernels on cpu. */
export function setThreads(threads: number): void {
  native.setThreads(threads);
}

export function getThreads(): number {
  return native.getThreads();
}

/** CPU milliseconds of this thread, the first number, and of each thread that computes with it. */
export function processorTimesMs(): number[] {
  return native.processorTimes();
}

/** Returns the libtorch release that the engine is written for. */
export function libtorchVersion(): string {
  return LIBTORCH_VERSION;
}

/** Whether a CUDA device can be used. Loads libtorch's CUDA half if it is installed. */
export function hasCuda(): boolean {
  return cudaDevices() > 0;
}

/** Returns why no CUDA device can be used, in the loader's words; undefined if one can. */
export function cudaProblem(): string | undefined {
  try {
    native.loadCuda();
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** Returns the number of CUDA devices; 0 without libtorch's CUDA half or without a driver. */
export function cudaDevices(): number {
  return cudaProblem() === undefined ? native.loadCuda() : 0;
}

/** Bytes of a card, and of libtorch's caching allocator on it: allocated, and reserved. */
export interface CardMemory {
  totalBytes: number;
  /** Free bytes of the card, after all programs. */
  freeBytes: number;
  allocatedBytes: number;
  peakAllocatedBytes: number;
  reservedBytes: number;
  peakReservedBytes: number;
}

/** Reads a card's memory in bytes. Throws if there is no such card. */
export function cardMemory(device: CardDevice): CardMemory {
  const [
    totalBytes = 0,
    freeBytes = 0,
    allocatedBytes = 0,
    peakAllocatedBytes = 0,
    reservedBytes = 0,
    peakReservedBytes = 0,
  ] = native.deviceMemory(deviceCode(device));
  return { totalBytes, freeBytes, allocatedBytes, peakAllocatedBytes, reservedBytes, peakReservedBytes };
}

/** Facts of a card. */
export interface CardInfo {
  name: string;
  /** Compute capability, for example 80 or 120. */
  capability: number;
  totalBytes: number;
  multiprocessors: number;
}

/** Least compute capability that each ability needs. */
export const CARD_ABILITIES = { bf16: 80, "flash attention": 80, fp8: 89 } as const;

/** Returns the features of a card with this compute capability, for example 89. */
export function abilitiesOf(capability: number): string[] {
  return Object.entries(CARD_ABILITIES).flatMap(([what, least]) => (capability >= least ? what : []));
}

/** Asks the driver about a card. Throws if there is no driver or no such card. */
export function cardInfo(device: CardDevice): CardInfo {
  const [name, capability, totalBytes, multiprocessors] = native.cardFacts(Number(device.slice(5)));
  return { name, capability, totalBytes, multiprocessors };
}

/** "NVIDIA H100 80GB HBM3, 79.1 GiB, compute capability 9.0: bf16, flash attention, fp8". */
export function describeCard({ name, capability, totalBytes }: CardInfo): string {
  const able = abilitiesOf(capability);
  const can = able.length > 0 ? able.join(", ") : `none of ${Object.keys(CARD_ABILITIES).join(", ")}`;
  return `${name}, ${formatBytes(totalBytes)}, compute capability ${(capability / 10).toFixed(1)}: ${can}`;
}

/** Returns unused memory: the caching allocator's to the card, or the process's own to the system. */
export function emptyCache(device: "cpu" | CardDevice): void {
  native.emptyCache(deviceCode(device));
}

/**
 * Whether the device computes while the host continues. If so, queue more work before reading the device's
 * numbers.
 */
export function computesBeside(device: Device): boolean {
  return isCard(device);
}

/**
 * Selects the card of this process. Call it before all other work with CUDA: otherwise CUDA also takes memory
 * of the first card.
 */
export function useCard(device: CardDevice): void {
  native.useCard(deviceCode(device));
}

/** Waits until all work queued on a device is done. */
export function synchronize(device: Device): void {
  native.synchronize(deviceCode(device));
}

function booked<T>(set: (value: number) => number, value: number, where: string, body: () => unknown): T {
  const before = set(value);
  try {
    const result = body();
    refuseDeferred(result, where);
    return result as T;
  } finally {
    set(before);
  }
}

function byCategory(bytes: readonly number[]): Record<Category, number> {
  return Object.fromEntries(CATEGORIES.map((name, at) => [name, bytes[at] ?? 0])) as Record<Category, number>;
}
