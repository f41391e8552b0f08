/** Everything that needs a card: ops, memory, copies and kernels. Reported as skipped if there is no card. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { emptyOnHost, startCopy } from "../../src/torch/copies.ts";
import { empty, full, randn } from "../../src/torch/create.ts";
import {
  cardInfo,
  cardMemory,
  category,
  cudaProblem,
  describeCard,
  emptyCache,
  memoryStats,
  OutOfMemoryError,
  recordAllocations,
  resetPeak,
  setCap,
  synchronize,
} from "../../src/torch/device.ts";
import { mapFile } from "../../src/torch/files.ts";
import { fused } from "../../src/torch/kernels/kernels.ts";
import { manualSeed } from "../../src/torch/random.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { CASES, compareToTwin, difference, kernelOf, type Scalars, type Sizes } from "./kernelCases.ts";

const MIB = 2 ** 20;
const card = "cuda:0";
const problem = cudaProblem();
if (problem) console.warn(`SKIPPED: nothing is tested on a card. ${problem}`);

const relative = (actual: Tensor, right: Tensor): number =>
  difference(actual.toFloat32Array(), right.toFloat32Array());

describe.skipIf(problem)("on a card", () => {
  afterEach(() => {
    setCap(card, undefined);
    emptyCache(card);
  });

  test("the driver tells what it is", () => {
    const info = cardInfo(card);
    expect(describeCard(info)).toContain(info.name);
    expect(info.capability).toBeGreaterThanOrEqual(75);
    expect(cardMemory(card).totalBytes).toBeLessThanOrEqual(info.totalBytes);
  });

  test.each<[string, (a: Tensor, b: Tensor) => Tensor]>([
    ["mm", (a, b) => a.mm(b)],
    ["addmm_", (a, b) => a.clone().addmm_(a, b, { alpha: 0.5 })],
    ["softmax", (a) => a.softmax(-1)],
    ["silu", (a, b) => a.silu().mul_(b)],
    ["sum", (a) => a.sumDim([0])],
  ])("%s gives what it gives on cpu", (_, op) => {
    scope(() => {
      const [a, b] = [randn([96, 96]), randn([96, 96])];
      const onCard = op(a.to({ device: card }), b.to({ device: card }));
      expect(relative(onCard, op(a, b))).toBeLessThan(5e-3); // matrix products may be in tf32
    });
  });

  test("allocations are booked by category, in blocks of 512 bytes, and all given back", () => {
    const before = memoryStats(card);
    resetPeak(card);
    const { log } = recordAllocations(card, () =>
      scope(() => {
        category("weights", () => empty([1000], { dtype: "uint8", device: card }));
        category("loss", () => empty([3 * MIB], { dtype: "uint8", device: card }));
        const { liveByCategory } = memoryStats(card);
        expect(liveByCategory.weights - before.liveByCategory.weights).toBe(1024);
        expect(liveByCategory.loss - before.liveByCategory.loss).toBe(3 * MIB);
      }),
    );
    expect(memoryStats(card).liveBytes).toBe(before.liveBytes);
    expect(memoryStats(card).peakBytes - before.liveBytes).toBe(3 * MIB + 1024);
    expect([...log.bytes].sort((a, b) => a - b)).toEqual([-3 * MIB, -1024, 1024, 3 * MIB]);
  });

  test("the books agree with the allocator's own count", () => {
    scope(() => {
      const [books, own] = [memoryStats(card).liveBytes, cardMemory(card).allocatedBytes];
      for (const bytes of [1, 511, 513, MIB - 1, 5 * MIB, 40 * MIB + 3])
        empty([bytes], { dtype: "uint8", device: card });
      expect(memoryStats(card).liveBytes - books).toBe(cardMemory(card).allocatedBytes - own);
    });
  });

  test("a cap below the card's memory holds, its error has the amounts, and after it the card goes on", () => {
    scope(() => {
      const { reservedBytes } = cardMemory(card);
      const capBytes = reservedBytes + 256 * MIB;
      setCap(card, capBytes);
      const take = () => scope(() => void empty([600 * MIB], { dtype: "uint8", device: card }));
      expect(take).toThrow(OutOfMemoryError);
      try {
        take();
      } catch (error) {
        expect(error).toMatchObject({ requestedBytes: 600 * MIB, capBytes, device: card, pool: "device" });
        expect((error as Error).message).toMatch(/out of memory on cuda:0: 600.* requested, .* live, cap/);
      }
      empty([100 * MIB], { dtype: "uint8", device: card });
      expect(cardMemory(card).reservedBytes).toBeLessThanOrEqual(capBytes);
      setCap(card, undefined);
      take();
    });
  });

  test("a buffer on the host is pinned, booked to the host pool at its own size, and reused", () => {
    const before = memoryStats(card, "host").liveBytes;
    const sizeBytes = 5 * MIB + 12;
    for (let turn = 0; turn < 3; turn++) {
      scope(() => {
        const buffer = emptyOnHost([sizeBytes], { dtype: "uint8", device: card });
        expect(buffer.device).toBe("cpu");
        expect(memoryStats(card, "host").liveBytes - before).toBe(sizeBytes);
        startCopy(empty([sizeBytes], { dtype: "uint8", device: card }), buffer).wait();
      });
    }
    expect(memoryStats(card, "host").liveBytes).toBe(before);
  });

  test("copies to the host and back keep their order with the work around them", () => {
    scope(() => {
      const x = randn([2048, 2048], { device: card });
      const host = emptyOnHost([2048, 2048], { device: card });
      for (let turn = 0; turn < 20; turn++) {
        x.mul_(1.01); // queued: the copy must wait for it
        const out = startCopy(host, x);
        const busy = x.mm(x); // runs beside the copy
        out.wait();
        const wanted = x.clone();
        x.zero_(); // queued after the copy
        const back = empty([2048, 2048], { device: card });
        startCopy(back, host).wait();
        expect(back.equal(wanted)).toBe(true);
        x.copy_(wanted);
        busy.dispose();
      }
    });
  });

  test("a destination that is let go of early is not given to others before its copy is done", () => {
    scope(() => {
      const host = emptyOnHost([64 * MIB], { dtype: "uint8", device: card });
      host.fill_(7);
      for (let turn = 0; turn < 10; turn++) {
        const copy = scope(() => startCopy(empty([64 * MIB], { dtype: "uint8", device: card }), host));
        copy.wait();
        const next = full([64 * MIB], 3, { dtype: "uint8", device: card }); // may get the same memory
        expect(next.eq(3).all().item()).toBe(1);
        next.dispose();
      }
    });
  });

  test("weights come from a mapped file through the pinned buffers", () => {
    const folder = mkdtempSync(join(tmpdir(), "lorafit-card-"));
    const bytes = Uint8Array.from({ length: 37 * MIB + 11 }, (_, at) => (at * 31) % 251);
    writeFileSync(join(folder, "weights"), bytes);
    scope(() => {
      using mapped = mapFile(join(folder, "weights"));
      const targets = [1, 2, 3].map(() => empty([bytes.length], { dtype: "uint8", device: card }));
      const copies = targets.map((to) => startCopy(to, mapped.tensor(0, "uint8", [bytes.length])));
      for (const copy of copies.reverse()) copy.wait();
      for (const to of targets) expect(Buffer.from(to.toBytes()).equals(Buffer.from(bytes))).toBe(true);
    });
    rmSync(folder, { recursive: true });
  });

  describe.each(["float32", "bfloat16", "float16"] satisfies Scalars[])("in %s", (dtype) => {
    const sizes: Sizes[] = [
      { rows: 1, columns: 1, extra: 0 },
      { rows: 7, columns: 333, extra: 2 },
      { rows: 300, columns: 4096, extra: 4 },
    ];
    test.each(Object.keys(fused) as (keyof typeof fused)[])("%s computes what its twin does", (name) => {
      for (const [seed, some] of sizes.entries()) {
        scope(() => {
          manualSeed(seed);
          const made = CASES[name](some, dtype);
          const kernel = kernelOf(name);
          compareToTwin(kernel, made, dtype, () => {
            const onCard = made.inputs.map((input) => input.to({ device: card }));
            kernel(onCard, made.options);
            synchronize(card);
            return (index) => onCard[index]!;
          });
        });
      }
    });
  });
});
