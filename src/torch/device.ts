/** Memory of devices by pool and category, its caps, and what else concerns a device as a whole. */
import { formatBytes, messageOf } from "../errors.ts";
import { type CardDevice, type Device, deviceCode, deviceOfCode, isCard } from "./dtypes.ts";
import { LIBTORCH_VERSION } from "./install/libtorch.ts";
import { native } from "./native.ts";
import { refuseDeferred } from "./tensor.ts";

/** Whose memory: the card's, or the host's that serves it (pinned). On cpu both are simulated, so that budgets hold there too. */
export const POOLS = ["device", "host"] as const;
export type Pool = (typeof POOLS)[number];

/** Purposes of allocations; the last one is for memory that worker threads of kernels allocate. */
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

/** Devices whose allocations are tracked here: all. A card's host pool is pinned memory, and cpu's. */
export type TrackedDevice = Device;

export interface MemoryStats {
  liveBytes: number;
  peakBytes: number;
  /** Bytes of the hard cap; undefined without one. */
  capBytes: number | undefined;
  /** Allocations since the peak was reset. */
  count: number;
  /** Allocations alive. */
  liveCount: number;
  liveByCategory: Record<Category, number>;
  /** Bytes at the peak, by category. */
  peakByCategory: Record<Category, number>;
}

/** Allocations and frees in order: `bytes` above zero is an allocation, below zero the free of the block with that id. */
export interface AllocationLog {
  ids: Float64Array;
  bytes: Float64Array;
  /** Indexes of POOLS. */
  pools: Uint8Array;
  /** Indexes of CATEGORIES. */
  categories: Uint8Array;
}

/** An allocation that a pool's cap, an injected failure or the device refused. */
export class OutOfMemoryError extends Error {
  readonly requestedBytes: number;
  readonly liveBytes: number;
  /** Undefined where no cap was set: the machine had no more. */
  readonly capBytes: number | undefined;
  readonly device: Device;
  readonly pool: Pool;
  /** The outermost category around the allocation: the part of a step that has too little. */
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

/** Runs the body with allocations counted to this pool. */
export function pool<T>(name: Pool, body: () => T extends PromiseLike<unknown> ? never : T): T {
  return booked(native.setPool, POOLS.indexOf(name), `pool("${name}")`, body);
}

/** Runs the body with allocations counted to this category ("workingSet" outside of any). */
export function category<T>(name: Category, body: () => T extends PromiseLike<unknown> ? never : T): T {
  try {
    return booked(native.setCategory, CATEGORIES.indexOf(name), `category("${name}")`, body);
  } catch (thrown) {
    if (thrown instanceof OutOfMemoryError) thrown.category = name;
    throw thrown;
  }
}

/**
 * Returns the bytes that are alive in a pool and that were at its peak, as requested from the allocator. Blocks of
 * at most 8 bytes are not counted, except on a card and in a plan for one: CPU kernels wrap numbers as tensors.
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

/** Starts a new peak at what is alive now, and a new count; of a card what its allocator reserves as well. */
export function resetPeak(device: TrackedDevice, of: Pool = "device"): void {
  native.resetPeak(deviceCode(device), POOLS.indexOf(of));
}

/**
 * Refuses with OutOfMemoryError whatever would take a pool above so many bytes; undefined lifts the cap. On a card the cap is on
 * what its caching allocator holds, in use or not, so that a large card behaves as a small one.
 */
export function setCap(device: TrackedDevice, bytes: number | undefined, of: Pool = "device"): void {
  native.setCap(deviceCode(device), POOLS.indexOf(of), bytes);
}

/** The n-th allocation from now (1 is the next one) throws OutOfMemoryError; 0 calls it off. For tests, and not on a card. */
export function failAtAllocation(device: TrackedDevice, n: number): void {
  native.failAtAllocation(deviceCode(device), n);
}

/** Runs the body and returns what it gave with every allocation and free of both pools meanwhile, in order. */
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

/** Begins or ends the logging of a device's allocations and frees, which `readAllocations` takes; for what goes on over several turns. */
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

/** The device that meta kernels stand for. */
export type PlanTarget =
  | { device: "cpu" }
  | { device: "cuda"; multiprocessors?: number; computeCapability?: number };

let target: PlanTarget = { device: "cpu" };

/** The device that is planned for: cpu outside of planningFor. */
export function planTarget(): { device: "cpu" } | { device: "cuda"; computeCapability: number } {
  return target.device === "cpu"
    ? { device: "cpu" }
    : { device: "cuda", computeCapability: target.computeCapability ?? 8 };
}

/** Compute capability of the card that is planned for, as 89; 0 where that is none. */
export function plannedCapability(): number {
  const planned = planTarget();
  return planned.device === "cuda" ? Math.round(10 * planned.computeCapability) : 0;
}

/**
 * Runs the body with meta kernels that allocate as those of this device do (cpu's outside of it); a card's with so many
 * multiprocessors, and the kernels that its compute capability (8.0 unless said) has.
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

/** Number of tensors alive: handles, of which several may share memory. */
export function liveTensors(): number {
  return native.liveTensors();
}

/** Threads that kernels on cpu use. */
export function setThreads(threads: number): void {
  native.setThreads(threads);
}

export function getThreads(): number {
  return native.getThreads();
}

/** Milliseconds that this thread, the first, and each of those that compute with it has had of a processor. */
export function processorTimesMs(): number[] {
  return native.processorTimes();
}

/** The libtorch release that the engine is written for. */
export function libtorchVersion(): string {
  return LIBTORCH_VERSION;
}

/** Whether a CUDA device can be used; loads libtorch's CUDA half where it is installed. */
export function hasCuda(): boolean {
  return cudaDevices() > 0;
}

/** Why no CUDA device can be used, in the loader's words; undefined where one can. */
export function cudaProblem(): string | undefined {
  try {
    native.loadCuda();
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** Number of CUDA devices; 0 without libtorch's CUDA half or without a driver. */
export function cudaDevices(): number {
  return cudaProblem() === undefined ? native.loadCuda() : 0;
}

/** Bytes of a card: its own, and what libtorch's caching allocator has given out and holds. */
export interface CardMemory {
  totalBytes: number;
  /** Free bytes of the card, after all programs. */
  freeBytes: number;
  allocatedBytes: number;
  peakAllocatedBytes: number;
  reservedBytes: number;
  peakReservedBytes: number;
}

/** Throws where there is no such card. */
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
  /** Compute capability, as 80 or 120. */
  capability: number;
  totalBytes: number;
  multiprocessors: number;
}

/** Least compute capability that each ability needs. */
export const CARD_ABILITIES = { bf16: 80, "flash attention": 80, fp8: 89 } as const;

/** Those of a card of this compute capability, as 89. */
export function abilitiesOf(capability: number): string[] {
  return Object.entries(CARD_ABILITIES).flatMap(([what, least]) => (capability >= least ? what : []));
}

/** The driver's word on a card; throws where there is no driver or no such card. */
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

/** Gives memory that the caching allocator holds unused back to the card, or the process's own back to the system. */
export function emptyCache(device: "cpu" | CardDevice): void {
  native.emptyCache(deviceCode(device));
}

/** Whether a device computes beside the host, which therefore should not ask for its numbers before more work is queued. */
export function computesBeside(device: Device): boolean {
  return isCard(device);
}

/** Makes a card this process's own, before anything is done with it: else CUDA takes memory of the first card too. */
export function useCard(device: CardDevice): void {
  native.useCard(deviceCode(device));
}

/** Waits for everything queued on a device. */
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
