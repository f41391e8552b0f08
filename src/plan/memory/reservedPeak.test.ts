import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AllocatorOptions, type Block, CachingAllocator } from "./cachingAllocator.ts";
import { type DeviceLog, type Replay, replayAllocations } from "./reservedPeak.ts";

const MIB = 2 ** 20;

/** An allocation under a name, or the free of a name. */
type Step = [name: string, bytes: number] | [freedName: string];

function logOf(steps: readonly Step[]): DeviceLog {
  const alive = new Map<string, { id: number; bytes: number }>();
  const events = steps.map(([name, bytes], id) => {
    if (bytes === undefined) return { id: alive.get(name)!.id, bytes: -alive.get(name)!.bytes };
    alive.set(name, { id, bytes });
    return { id, bytes };
  });
  return {
    ids: Float64Array.from(events, ({ id }) => id),
    bytes: Float64Array.from(events, ({ bytes }) => bytes),
    pools: new Uint8Array(events.length),
  };
}

interface LogShape {
  seed: number;
  events: number;
  liveBlocks: number;
  /** A power of two; sizes are spread evenly over the powers of two up to it. */
  maxBytes: number;
}

/**
 * Returns a log that is always the same for a shape. Its frees alternate between the youngest block and any
 * block.
 */
function randomLog({ seed, events, liveBlocks, maxBytes }: LogShape): DeviceLog {
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const ids = new Float64Array(events);
  const bytes = new Float64Array(events);
  const alive: { id: number; bytes: number }[] = [];
  for (let event = 0; event < events; event++) {
    if (alive.length === liveBlocks || (alive.length > 0 && random(100) < 45)) {
      const [freed] = alive.splice(random(2) === 0 ? alive.length - 1 : random(alive.length), 1);
      ids[event] = freed!.id;
      bytes[event] = -freed!.bytes;
    } else {
      const block = { id: event, bytes: 1 + random(2 ** (4 + random(Math.log2(maxBytes) - 3))) };
      ids[event] = block.id;
      bytes[event] = block.bytes;
      alive.push(block);
    }
  }
  return { ids, bytes, pools: new Uint8Array(events) };
}

const shapes = {
  few: { seed: 2, events: 3000, liveBlocks: 40, maxBytes: 64 * MIB },
  many: { seed: 3, events: 5000, liveBlocks: 300, maxBytes: 16 * MIB },
  small: { seed: 4, events: 5000, liveBlocks: 1000, maxBytes: 8 * MIB },
} as const satisfies Record<string, LogShape>;

const growing = { expandableSegments: true };

type Truth = [
  shape: keyof typeof shapes,
  options: AllocatorOptions,
  peaks: [requestedBytes: number, allocatedBytes: number, reservedBytes: number],
  end: [
    allocatedBytes: number,
    reservedBytes: number,
    segments: number,
    flushes: number,
    outOfMemoryAt?: number,
  ],
];

/**
 * Reports of PyTorch 2.11.0+cu130's own allocator (libc10_cuda.so) for these logs, over a simulated CUDA
 * driver. The driver counts bytes, and refuses them beyond the budget. No graphics card took part, so these
 * numbers cannot show a driver's choice of addresses. With random addresses, the reserved peaks of 240 such
 * logs lay between 5.9 % below and 5.3 % above the model's; most were equal.
 */
// biome-ignore format: columns line up
const truths: Truth[] = [
  ["few",   {},                                        [203854358, 204425728, 331350016], [73579008, 331350016, 13, 0]],
  ["few",   growing,                                   [203854358, 203866624, 260046848], [72522240, 260046848, 0, 0]],
  ["few",   { budgetBytes: 222298112 },                [191762762, 193156608, 216006656], [167089664, 213909504, 9, 2, 617]],
  ["few",   { ...growing, budgetBytes: 222298112 },    [191762762, 191773184, 218103808], [165617152, 216006656, 0, 1, 617]],
  ["few",   { ...growing, allowedBytes: 222298112 },   [191762762, 191773184, 218103808], [165617152, 216006656, 0, 1, 617]],
  ["many",  {},                                        [323023654, 334841856, 381681664], [324929024, 381681664, 34, 0]],
  ["many",  growing,                                   [323023654, 323114496, 364904448], [315010560, 364904448, 0, 0]],
  ["many",  { budgetBytes: 362807296 },                [323023654, 334667776, 362807296], [312004096, 362807296, 32, 2, 4982]],
  ["many",  { ...growing, budgetBytes: 362807296 },    [323023654, 323114496, 360710144], [315010560, 360710144, 0, 1]],
  ["many",  { ...growing, allowedBytes: 362807296 },   [323023654, 323114496, 364904448], [315010560, 364904448, 0, 0]],
  ["small", {},                                        [180576719, 189353472, 226492416], [177562112, 226492416, 27, 0]],
  ["small", growing,                                   [180576719, 180698624, 224395264], [167084032, 224395264, 0, 0]],
  ["small", { budgetBytes: 205520896 },                [159151590, 165097472, 195035136], [139975168, 195035136, 21, 1, 4108]],
  ["small", { ...growing, budgetBytes: 205520896 },    [177622741, 177738240, 197132288], [172003328, 195035136, 0, 1, 4522]],
  ["small", { ...growing, allowedBytes: 205520896 },   [177622741, 177738240, 197132288], [172003328, 195035136, 0, 1, 4522]],
];

describe("a replay", () => {
  it.each(truths)(
    "agrees to the byte with PyTorch's allocator: %s blocks, %j",
    (shape, options, peaks, end) => {
      const replay = replayAllocations(randomLog(shapes[shape]), options);
      expect([replay.requestedPeakBytes, replay.allocatedPeakBytes, replay.reservedPeakBytes]).toEqual(peaks);
      const { allocatedBytes, reservedBytes, segments, flushes, outOfMemory } = replay;
      expect([allocatedBytes, reservedBytes, segments, flushes, outOfMemory?.event]).toEqual(
        [...end, undefined].slice(0, 5),
      );
    },
  );

  type Case = [claim: string, steps: Step[], options: AllocatorOptions, expected: Partial<Replay>];
  // biome-ignore format: a case a line
  const cases: Case[] = [
    ["rounds a byte up to 512", [["a", 1]], {}, { allocatedPeakBytes: 512, reservedPeakBytes: 2 * MIB }],
    ["packs blocks up to 1 MiB in segments of 2", [["a", MIB], ["b", MIB]], {}, { reservedPeakBytes: 2 * MIB }],
    ["reserves another segment when one is full", [["a", MIB], ["b", MIB], ["c", 1]], {}, { reservedPeakBytes: 4 * MIB, segments: 2 }],
    ["packs larger blocks in segments of 20 MiB", [["a", MIB + 1]], {}, { allocatedPeakBytes: MIB + 512, reservedPeakBytes: 20 * MIB }],
    ["leaves a rest up to 1 MiB with its block", [["a", 10 * MIB - 512], ["b", 10 * MIB - 512]], {}, { allocatedPeakBytes: 20 * MIB, reservedPeakBytes: 20 * MIB }],
    ["gives 10 MiB a segment of their own", [["a", 10 * MIB]], {}, { reservedPeakBytes: 10 * MIB }],
    ["rounds own segments up to 2 MiB", [["a", 10 * MIB + 1]], {}, { allocatedPeakBytes: 10 * MIB + 512, reservedPeakBytes: 12 * MIB }],
    ["merges free neighbours", [["a", 6 * MIB], ["b", 6 * MIB], ["c", 6 * MIB], ["a"], ["b"], ["d", 12 * MIB]], {}, { reservedPeakBytes: 20 * MIB }],
    ["gives the cache back when the budget is short", [["a", 12 * MIB], ["a"], ["b", 22 * MIB]], { budgetBytes: 24 * MIB }, { flushes: 1, reservedPeakBytes: 22 * MIB, outOfMemory: undefined }],
    ["maps small blocks in pages of 2 MiB", [["a", 1]], growing, { reservedPeakBytes: 2 * MIB, segments: 0 }],
    ["maps large blocks in pages of 20 MiB, end to end", [["a", 30 * MIB], ["b", 9 * MIB], ["c", 2 * MIB]], growing, { allocatedPeakBytes: 41 * MIB, reservedPeakBytes: 60 * MIB }],
    ["lets pages pass PyTorch's own limit", [["a", 30 * MIB]], { ...growing, allowedBytes: 32 * MIB }, { reservedPeakBytes: 40 * MIB }],
    ["lets no page pass the budget", [["a", 30 * MIB]], { ...growing, budgetBytes: 32 * MIB }, { reservedPeakBytes: 0, outOfMemory: { event: 0, requestedBytes: 30 * MIB, allocatedBytes: 0, reservedBytes: 0 } }],
  ];
  it.each(cases)("%s", (_, steps, options, expected) => {
    expect(replayAllocations(logOf(steps), options)).toMatchObject(expected);
  });

  const cutUp: Step[] = [["a", 60 * MIB], ["b", 60 * MIB], ["a"], ["c", 2 * MIB], ["d", 80 * MIB]];

  it("runs out of memory where a small block holds a segment that a large one needs", () => {
    const { outOfMemory, allocatedBytes } = replayAllocations(logOf(cutUp), { budgetBytes: 180 * MIB });
    expect(outOfMemory).toEqual({
      event: 4,
      requestedBytes: 80 * MIB,
      allocatedBytes: 62 * MIB,
      reservedBytes: 120 * MIB,
    });
    expect(allocatedBytes).toBe(62 * MIB);
  });

  it("moves a growing segment's free pages behind the large block instead", () => {
    const replay = replayAllocations(logOf(cutUp), { ...growing, budgetBytes: 180 * MIB });
    expect(replay).toMatchObject({ outOfMemory: undefined, flushes: 1, reservedPeakBytes: 160 * MIB });
  });

  it("passes over what lies in the host's pool", () => {
    const log = { ...logOf([["a", 512], ["b", 5 * MIB], ["b"]]), pools: Uint8Array.of(0, 1, 1) };
    expect(replayAllocations(log)).toMatchObject({ requestedPeakBytes: 512, reservedPeakBytes: 2 * MIB });
  });

  it("holds the libraries' workspace from the start, in a segment that blocks share", () => {
    const replay = replayAllocations(logOf([["a", 9 * MIB], ["a"]]), { workspaceBytes: [8_519_680] });
    expect(replay.allocatedPeakBytes).toBe(9 * MIB + 8_519_680);
    expect(replay).toMatchObject({ reservedPeakBytes: 20 * MIB, allocatedBytes: 8_519_680 });
  });

  it("says so where not even the workspace fits", () => {
    const options = { workspaceBytes: [32 * MIB], budgetBytes: 16 * MIB };
    const replay = replayAllocations(logOf([["a", 512]]), options);
    expect(replay.outOfMemory).toMatchObject({ event: -1, requestedBytes: 32 * MIB });
    expect(replay.reservedPeakBytes).toBe(0);
  });

  it("refuses a log that frees what it did not allocate", () => {
    const log = { ids: Float64Array.of(1, 7), bytes: Float64Array.of(512, -512), pools: new Uint8Array(2) };
    expect(() => replayAllocations(log)).toThrow("event 1 frees block 7");
  });

  it("replays a log of 200,000 events", () => {
    const log = randomLog({ seed: 9, events: 200_000, liveBlocks: 500, maxBytes: 32 * MIB });
    for (const options of [{}, growing]) {
      const { allocatedPeakBytes, reservedPeakBytes, requestedPeakBytes } = replayAllocations(log, options);
      expect(allocatedPeakBytes).toBeGreaterThanOrEqual(requestedPeakBytes);
      expect(reservedPeakBytes).toBeGreaterThanOrEqual(allocatedPeakBytes);
    }
  });
});

describe("the allocator's model", () => {
  const sizes = fc.oneof(
    fc.integer({ min: 1, max: 4096 }),
    fc.integer({ min: 1, max: 24 * MIB }),
    fc.constantFrom(512, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB, 20 * MIB),
  );
  const steps = fc.array(fc.record({ bytes: sizes, frees: fc.boolean(), which: fc.nat() }), {
    maxLength: 200,
  });
  const options = fc.record({
    expandableSegments: fc.boolean(),
    budgetBytes: fc.constantFrom(40 * MIB, 80 * MIB, Number.POSITIVE_INFINITY),
  });
  type Steps = { bytes: number; frees: boolean; which: number }[];

  /**
   * Runs steps, and skips allocations that find no memory. Calls `look` with the blocks in use after each
   * step.
   */
  function run(allocator: CachingAllocator, done: Steps, look: (used: Block[]) => void = () => {}): Block[] {
    const used: Block[] = [];
    for (const { bytes, frees, which } of done) {
      if (frees && used.length > 0) allocator.free(used.splice(which % used.length, 1)[0]!);
      else {
        const block = allocator.allocate(bytes);
        if (block) used.push(block);
        if (block) expect(block.bytes).toBeGreaterThanOrEqual(bytes);
      }
      look(used);
    }
    return used;
  }

  it("hands out blocks that never overlap, and never more than it reserved", () => {
    fc.assert(
      fc.property(steps, options, (done, given) => {
        const allocator = new CachingAllocator(given);
        run(allocator, done, (used) => {
          const ordered = used.toSorted((a, b) => a.address - b.address);
          for (const [at, { address, bytes }] of ordered.entries()) {
            expect(address + bytes).toBeLessThanOrEqual(ordered[at + 1]?.address ?? Number.POSITIVE_INFINITY);
          }
          expect(allocator.allocatedBytes).toBe(used.reduce((sum, { bytes }) => sum + bytes, 0));
          expect(allocator.reservedBytes).toBeGreaterThanOrEqual(allocator.allocatedBytes);
          expect(allocator.reservedBytes).toBeLessThanOrEqual(
            Math.min(given.budgetBytes, allocator.reservedPeakBytes),
          );
        });
      }),
    );
  });

  it("has nothing in use once all is freed, and gives the whole budget to one block then", () => {
    fc.assert(
      fc.property(steps, fc.boolean(), (done, expandableSegments) => {
        const allocator = new CachingAllocator({ expandableSegments, budgetBytes: 80 * MIB });
        for (const block of run(allocator, done)) allocator.free(block);
        expect(allocator.allocatedBytes).toBe(0);
        expect(allocator.allocate(80 * MIB)?.bytes).toBe(80 * MIB);
        expect(allocator.reservedBytes).toBe(80 * MIB);
      }),
    );
  });

  it("does the same with the same log every time", () => {
    fc.assert(
      fc.property(fc.nat(1e6), options, (seed, given) => {
        const log = randomLog({ seed, events: 300, liveBlocks: 30, maxBytes: 16 * MIB });
        expect(replayAllocations(log, given)).toEqual(replayAllocations(log, given));
      }),
      { numRuns: 30 },
    );
  });

  it("takes the smallest free block that fits, and of equals the lowest", () => {
    const allocator = new CachingAllocator();
    const blocks = [30, 12, 16, 12].map((mib) => allocator.allocate(mib * MIB)!);
    const [, low] = blocks.map(({ address }) => address);
    for (const block of blocks) allocator.free(block);
    expect(allocator.allocate(11 * MIB + 512)?.address).toBe(low);
  });
});
