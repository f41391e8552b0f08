/**
 * A model of PyTorch's caching allocator of CUDA memory: which bytes it reserves from the driver for the
 * blocks that it hands out.
 *
 * Source of every rule: c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h of PyTorch 2.11,
 * with their defaults. The model leaves out what a step on one stream does not use: other streams, graph
 * capture, private pools, limits on splitting. Segments get rising addresses here. A driver may give others,
 * which changes only the choice between free blocks of equal size.
 */
import { SortedSet } from "./sortedSet.ts";

const MIB = 2 ** 20;
/** Blocks are multiples of this (kMinBlockSize). */
const ROUND_BYTES = 512;
/**
 * The largest block of the small pool (kSmallSize). A large block keeps a remainder up to this size instead
 * of splitting.
 */
const SMALL_BYTES = MIB;
/** Size of segments for small blocks, and of their pages in expandable segments (kSmallBuffer). */
const SMALL_SEGMENT_BYTES = 2 * MIB;
/**
 * Size of segments for blocks from SMALL_BYTES to LARGE_BYTES, and of pages of large blocks (kLargeBuffer).
 */
const LARGE_SEGMENT_BYTES = 20 * MIB;
/**
 * Blocks from this size on (kMinLargeAlloc) have their own segment, rounded up to SEGMENT_ROUND_BYTES
 * (kRoundLarge).
 */
const LARGE_BYTES = 10 * MIB;
const SEGMENT_ROUND_BYTES = 2 * MIB;
/** Address range of an expandable segment if no budget limits the memory. */
const UNLIMITED_BYTES = 2 ** 44;

/** Returns the bytes of a block in use for a request of so many bytes, with growing segments. */
export function blockBytes(requestedBytes: number): number {
  return roundUp(requestedBytes, ROUND_BYTES);
}

export interface AllocatorOptions {
  /** PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True. */
  expandableSegments?: boolean;
  /**
   * Bytes that the driver can give: physical memory less contexts and other processes. Unlimited by default.
   */
  budgetBytes?: number;
  /**
   * PyTorch's own limit, set as a fraction of the card. Pages of expandable segments may pass it by up to 20
   * MiB. Unlimited by default.
   */
  allowedBytes?: number;
  /** Called for each range of addresses that an expandable segment gets memory for. */
  onMap?: (address: number, bytes: number) => void;
}

/** A range of addresses in a segment, linked to its neighbours there. */
export interface Block {
  address: number;
  bytes: number;
  /** unmapped: addresses of an expandable segment with no memory behind them. */
  state: "used" | "free" | "unmapped";
  readonly pool: Pool;
  /** Start address of the block's expandable segment; undefined in segments of fixed size. */
  readonly expandableFrom: number | undefined;
  previous: Block | undefined;
  next: Block | undefined;
}

type Place = Pick<Block, "address" | "bytes">;

interface Pool {
  readonly small: boolean;
  readonly pageBytes: number;
  readonly free: SortedSet<Place, Block>;
  readonly unmapped: SortedSet<Place, Block>;
}

export class CachingAllocator {
  /** Bytes of the blocks in use. */
  allocatedBytes = 0;
  /** Bytes taken from the driver. */
  reservedBytes = 0;
  reservedPeakBytes = 0;
  /** Number of reserved segments of fixed size. */
  segments = 0;
  /** Number of times that the whole cache was returned to the driver because memory ran out. */
  flushes = 0;
  private nextAddress = 0;
  private readonly large = createPool(false);
  private readonly small = createPool(true);
  private readonly expandable: boolean;
  private readonly budgetBytes: number;
  private readonly allowedBytes: number;
  private readonly onMap: AllocatorOptions["onMap"];

  constructor(options: AllocatorOptions = {}) {
    this.expandable = options.expandableSegments ?? false;
    this.budgetBytes = options.budgetBytes ?? Number.POSITIVE_INFINITY;
    this.allowedBytes = options.allowedBytes ?? Number.POSITIVE_INFINITY;
    this.onMap = options.onMap;
  }

  /**
   * Returns a block of at least requestedBytes (above zero); undefined if neither the cache nor the driver
   * has one: out of memory.
   */
  allocate(requestedBytes: number): Block | undefined {
    const bytes = blockBytes(requestedBytes);
    const pool = bytes <= SMALL_BYTES ? this.small : this.large;
    const block =
      this.takeFree(pool, bytes) ?? this.reserve(pool, bytes) ?? this.flushAndReserve(pool, bytes);
    if (!block) return undefined;
    this.splitOff(block, bytes);
    block.state = "used";
    this.allocatedBytes += block.bytes;
    return block;
  }

  /** Takes back a block in use. The caller must not touch it afterwards. */
  free(block: Block): void {
    this.allocatedBytes -= block.bytes;
    block.state = "free";
    mergeNeighbours(block);
    block.pool.free.insert(block);
  }

  /**
   * Returns the smallest free block that fits, the lowest of equals. A block that could grow counts with the
   * size that it could reach.
   */
  private takeFree(pool: Pool, bytes: number): Block | undefined {
    let block = pool.free.ceiling({ bytes, address: -1 });
    if (!block) return undefined;
    if (this.expandable) {
      let next = pool.free.after(block);
      while (next && growableBytes(next) < growableBytes(block)) {
        block = next;
        next = pool.free.after(block);
      }
    }
    pool.free.remove(block);
    return block;
  }

  /**
   * Returns a block from newly reserved memory, at least `bytes` long and in no set; undefined if limits
   * forbid it.
   */
  private reserve(pool: Pool, bytes: number): Block | undefined {
    const segmentBytes = segmentBytesFor(bytes);
    if (this.reservedBytes + segmentBytes > this.allowedBytes) return undefined;
    return this.expandable ? this.expand(pool, bytes) : this.reserveSegment(pool, segmentBytes);
  }

  private reserveSegment(pool: Pool, bytes: number): Block | undefined {
    if (this.reservedBytes + bytes > this.budgetBytes) return undefined;
    this.book(bytes);
    this.segments++;
    return createBlock(pool, this.claimAddresses(bytes), bytes, "free", undefined);
  }

  /**
   * Backs the lowest addresses of an expandable segment with pages, where `bytes` fit between blocks in use.
   */
  private expand(pool: Pool, bytes: number): Block | undefined {
    let block = this.roomFor(pool, bytes);
    if (block.state === "unmapped" && !this.map(block, Math.min(block.bytes, bytes))) return undefined;
    while (block.bytes < bytes) {
      const rest = block.next!; // unmapped, because roomFor saw free and unmapped blocks alternate
      if (!this.map(rest, Math.min(bytes - block.bytes, rest.bytes))) return undefined;
      block = rest;
    }
    pool.free.remove(block);
    return block;
  }

  /**
   * Returns the first of neighbouring free and unmapped blocks with addresses for `bytes`: the lowest in the
   * pool, or that of a new segment.
   */
  private roomFor(pool: Pool, bytes: number): Block {
    for (const unmapped of pool.unmapped.items()) {
      const first = unmapped.previous?.state === "free" ? unmapped.previous : unmapped;
      if (hasRoom(first, bytes)) return first;
    }
    const memoryBytes = Number.isFinite(this.budgetBytes) ? this.budgetBytes : UNLIMITED_BYTES;
    const spaceBytes = roundUp(memoryBytes * 1.125, pool.pageBytes);
    const address = this.claimAddresses(spaceBytes);
    const segment = createBlock(pool, address, spaceBytes, "unmapped", address);
    pool.unmapped.insert(segment);
    return segment;
  }

  /**
   * Maps pages for the first `bytes` of an unmapped block. They become a free block, merged with free
   * neighbours.
   */
  private map(block: Block, bytes: number): boolean {
    const { pool } = block;
    const mappedBytes = roundUp(bytes, pool.pageBytes);
    if (this.reservedBytes + mappedBytes > this.budgetBytes) return false;
    pool.unmapped.remove(block);
    if (mappedBytes < block.bytes) pool.unmapped.insert(cut(block, mappedBytes));
    this.onMap?.(block.address, block.bytes);
    block.state = "free";
    mergeNeighbours(block);
    pool.free.insert(block);
    this.book(mappedBytes);
    return true;
  }

  /**
   * Cuts a block that is in no set to `bytes`. Makes the rest a free block, unless the rest is too small to
   * be useful.
   */
  private splitOff(block: Block, bytes: number): void {
    const restBytes = block.bytes - bytes;
    const splits = block.pool.small || this.expandable ? restBytes >= ROUND_BYTES : restBytes > SMALL_BYTES;
    if (splits) block.pool.free.insert(cut(block, bytes));
  }

  private flushAndReserve(pool: Pool, bytes: number): Block | undefined {
    this.flushes++;
    for (const block of [...this.large.free.items(), ...this.small.free.items()]) {
      if (block.expandableFrom !== undefined) this.unmap(block, block.expandableFrom);
      else if (!block.previous && !block.next) this.releaseSegment(block);
    }
    return this.reserve(pool, bytes);
  }

  private releaseSegment(block: Block): void {
    block.pool.free.remove(block);
    this.segments--;
    this.reservedBytes -= block.bytes;
  }

  /**
   * Returns to the driver the pages that lie wholly in a free block. What is left at either end stays a free
   * block.
   */
  private unmap(block: Block, segmentAddress: number): void {
    const { pool } = block;
    const start = segmentAddress + roundUp(block.address - segmentAddress, pool.pageBytes);
    const end = segmentAddress + roundDown(block.address + block.bytes - segmentAddress, pool.pageBytes);
    if (start >= end) return;
    pool.free.remove(block);
    const pages = start > block.address ? cut(block, start - block.address) : block;
    if (pages !== block) pool.free.insert(block);
    if (end < pages.address + pages.bytes) pool.free.insert(cut(pages, end - start));
    pages.state = "unmapped";
    mergeNeighbours(pages);
    this.reservedBytes -= end - start;
    if (pages.previous || pages.next) pool.unmapped.insert(pages);
  }

  private book(bytes: number): void {
    this.reservedBytes += bytes;
    this.reservedPeakBytes = Math.max(this.reservedPeakBytes, this.reservedBytes);
  }

  private claimAddresses(bytes: number): number {
    const address = this.nextAddress;
    this.nextAddress += bytes;
    return address;
  }
}

function createPool(small: boolean): Pool {
  return {
    small,
    pageBytes: small ? SMALL_SEGMENT_BYTES : LARGE_SEGMENT_BYTES,
    free: new SortedSet<Place, Block>((a, b) => a.bytes - b.bytes || a.address - b.address),
    unmapped: new SortedSet<Place, Block>((a, b) => a.address - b.address),
  };
}

/** Returns the bytes of the segment that is reserved for a block. */
function segmentBytesFor(blockBytes: number): number {
  if (blockBytes <= SMALL_BYTES) return SMALL_SEGMENT_BYTES;
  return blockBytes < LARGE_BYTES ? LARGE_SEGMENT_BYTES : roundUp(blockBytes, SEGMENT_ROUND_BYTES);
}

function createBlock(
  pool: Pool,
  address: number,
  bytes: number,
  state: Block["state"],
  expandableFrom: number | undefined,
): Block {
  return { address, bytes, state, pool, expandableFrom, previous: undefined, next: undefined };
}

/**
 * Cuts a block that is in no set to `bytes`. Returns the rest: its next neighbour, in the same state and in
 * no set either.
 */
function cut(block: Block, bytes: number): Block {
  const rest = createBlock(
    block.pool,
    block.address + bytes,
    block.bytes - bytes,
    block.state,
    block.expandableFrom,
  );
  rest.previous = block;
  rest.next = block.next;
  if (rest.next) rest.next.previous = rest;
  block.next = rest;
  block.bytes = bytes;
  return rest;
}

/** Merges neighbours of the same state, which are in their set, into a block that is in none. */
function mergeNeighbours(block: Block): void {
  const { previous, next, state, pool } = block;
  const set = state === "unmapped" ? pool.unmapped : pool.free;
  if (previous?.state === state) {
    set.remove(previous);
    block.address = previous.address;
    block.bytes += previous.bytes;
    block.previous = previous.previous;
    if (block.previous) block.previous.next = block;
  }
  if (next?.state === state) {
    set.remove(next);
    block.bytes += next.bytes;
    block.next = next.next;
    if (block.next) block.next.previous = block;
  }
}

/** Returns the bytes that a free block could have once the addresses after it are mapped. */
function growableBytes(block: Block): number {
  return block.bytes + (block.next?.state === "unmapped" ? block.next.bytes : 0);
}

function hasRoom(first: Block, bytes: number): boolean {
  let roomBytes = 0;
  for (
    let block: Block | undefined = first;
    block && block.state !== "used" && roomBytes < bytes;
    block = block.next
  ) {
    roomBytes += block.bytes;
  }
  return roomBytes >= bytes;
}

function roundUp(bytes: number, unitBytes: number): number {
  return Math.ceil(bytes / unitBytes) * unitBytes;
}

function roundDown(bytes: number, unitBytes: number): number {
  return Math.floor(bytes / unitBytes) * unitBytes;
}
