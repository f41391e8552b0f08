import { afterEach, describe, expect, test } from "vitest";
import { cat, empty, fromArray, ones, zeros } from "./create.ts";
import {
  CATEGORIES,
  type Category,
  cardInfo,
  category,
  cudaDevices,
  cudaProblem,
  describeCard,
  failAtAllocation,
  getThreads,
  hasCuda,
  libtorchVersion,
  memoryStats,
  OutOfMemoryError,
  planningFor,
  pool,
  recordAllocations,
  resetPeak,
  setCap,
  setThreads,
  synchronize,
} from "./device.ts";
import { _fusedRmsNorm, _scaledDotProductFlashAttention } from "./ops.gen.ts";
import { grad, scope, type Tensor, withGrad } from "./tensor.ts";

const KIB = 1024;

afterEach(() => {
  for (const device of ["cpu", "meta"] as const) {
    failAtAllocation(device, 0);
    setCap(device, undefined);
    setCap(device, undefined, "host");
  }
});

/** Returns the live bytes of a category in a pool of cpu. */
function live(name: Category, of: "device" | "host" = "device"): number {
  return memoryStats("cpu", of).liveByCategory[name];
}

/** Runs the body and returns what it threw, as an OutOfMemoryError. */
function outOfMemory(body: () => void): OutOfMemoryError {
  try {
    body();
  } catch (error) {
    expect(error).toBeInstanceOf(OutOfMemoryError);
    return error as OutOfMemoryError;
  }
  throw new Error("there was memory enough");
}

describe.each(["cpu", "meta"] as const)("on %s", (device) => {
  const bytes = (kib: number) => empty([kib * KIB], { dtype: "uint8", device });

  test("allocations are booked to the pool and category around them, and freed from there", () => {
    scope(() => {
      const before = memoryStats(device, "host");
      const made = pool("host", () => category("boundaryActivations", () => bytes(4)));
      const after = memoryStats(device, "host");
      expect(after.liveBytes - before.liveBytes).toBe(4 * KIB);
      expect(after.liveByCategory.boundaryActivations - before.liveByCategory.boundaryActivations).toBe(
        4 * KIB,
      );
      expect(after.liveCount - before.liveCount).toBe(1);
      pool("device", () => category("loss", () => made.dispose()));
      expect(memoryStats(device, "host")).toEqual({ ...before, count: after.count, ...peaksOf(after) });
    });
  });

  test("the peak says what was alive at it, by category", () => {
    scope(() => {
      resetPeak(device);
      const base = memoryStats(device).liveByCategory;
      category("weights", () => bytes(10));
      category("loss", () => bytes(20)).dispose();
      category("optimizerState", () => bytes(5));
      const { peakBytes, peakByCategory, liveBytes } = memoryStats(device);
      expect(peakByCategory.weights - base.weights).toBe(10 * KIB);
      expect(peakByCategory.loss - base.loss).toBe(20 * KIB);
      expect(peakByCategory.optimizerState - base.optimizerState).toBe(0);
      expect(Object.values(peakByCategory).reduce((sum, part) => sum + part)).toBe(peakBytes);
      resetPeak(device);
      expect(memoryStats(device).peakBytes).toBe(liveBytes);
      expect(memoryStats(device).count).toBe(0);
    });
  });

  test("a cap refuses what would pass it, says the three amounts, and holds for one pool", () => {
    scope(() => {
      const liveBytes = memoryStats(device).liveBytes;
      setCap(device, liveBytes + 8 * KIB);
      bytes(8).dispose();
      const held = bytes(5);
      const error = outOfMemory(() => bytes(4));
      expect(error).toMatchObject({
        requestedBytes: 4 * KIB,
        liveBytes: liveBytes + 5 * KIB,
        capBytes: liveBytes + 8 * KIB,
      });
      expect(error).toMatchObject({ device, pool: "device" });
      expect(error.message).toContain(`out of memory on ${device}`);
      expect(memoryStats(device).liveBytes).toBe(liveBytes + held.bytes);
      pool("host", () => bytes(100));
      setCap(device, undefined);
      expect(memoryStats(device).capBytes).toBe(undefined);
      bytes(100);
    });
  });

  test("the n-th allocation can be made to fail, once", () => {
    scope(() => {
      failAtAllocation(device, 3);
      bytes(1);
      bytes(1);
      expect(outOfMemory(() => bytes(1)).requestedBytes).toBe(KIB);
      bytes(1);
    });
  });

  test("the log has every allocation and free in order, with pool and category", () => {
    scope(() => {
      const { result, log } = recordAllocations(device, () => {
        const first = category("weights", () => bytes(2));
        const second = pool("host", () => bytes(3));
        first.dispose();
        return second;
      });
      expect([...log.bytes]).toEqual([2 * KIB, 3 * KIB, -2 * KIB]);
      expect(log.ids[0]).toBe(log.ids[2]);
      expect(log.ids[1]).not.toBe(log.ids[0]);
      expect([...log.pools]).toEqual([0, 1, 0]);
      expect(CATEGORIES[log.categories[0] as number]).toBe("weights");
      expect(CATEGORIES[log.categories[1] as number]).toBe("workingSet");
      result.dispose();
    });
  });

  test("an op that runs out of memory frees what it had begun", () => {
    scope(() => {
      const parts = [1, 2, 3].map(() => bytes(4));
      const before = memoryStats(device).liveBytes;
      setCap(device, before + KIB);
      outOfMemory(() => cat(parts));
      expect(memoryStats(device).liveBytes).toBe(before);
    });
  });
});

/** Picks the numbers that a later peak may change. */
function peaksOf({
  peakBytes,
  peakByCategory,
}: {
  peakBytes: number;
  peakByCategory: Record<Category, number>;
}) {
  return { peakBytes, peakByCategory };
}

test("pool and category hold inside a backward pass", () => {
  scope(() => {
    const x = ones([32, 32]).requiresGrad_();
    const y = withGrad(() => x.mm(x).sum());
    const before = live("loraGradients", "host");
    const [dx] = pool("host", () => category("loraGradients", () => grad([y], [x])));
    expect(live("loraGradients", "host") - before).toBe((dx as Tensor).bytes);
  });
});

test("running out of memory in a backward pass is the same error, and leaves the graph's memory to its scope", () => {
  const before = memoryStats("cpu").liveBytes;
  scope(() => {
    const x = ones([64, 64]).requiresGrad_();
    const y = withGrad(() => x.mm(x).exp());
    setCap("cpu", memoryStats("cpu").liveBytes + 100);
    expect(outOfMemory(() => void grad([y], [x], [y])).requestedBytes).toBe(64 * 64 * 4);
    setCap("cpu", undefined);
  });
  expect(memoryStats("cpu").liveBytes).toBe(before);
});

test("failing at each allocation of a computation in turn leaks nothing and changes no result", () => {
  const compute = (): number =>
    scope(() => {
      const x = zeros([40, 30]).add(0.5).requiresGrad_();
      const [dx] = withGrad(() => grad([x.mm(x.t()).softmax(-1).square().sum()], [x]));
      return (dx as Tensor).sum().item();
    });
  const expected = compute();
  const before = memoryStats("cpu").liveBytes;
  for (let n = 1; ; n++) {
    failAtAllocation("cpu", n);
    let result: number | undefined;
    try {
      result = compute();
    } catch (error) {
      expect(error).toBeInstanceOf(OutOfMemoryError);
    }
    failAtAllocation("cpu", 0);
    expect(memoryStats("cpu").liveBytes).toBe(before);
    if (result === undefined) continue;
    expect(result).toBe(expected);
    expect(n).toBeGreaterThan(8);
    break;
  }
});

test("wrapped numbers stay out of the books", () => {
  scope(() => {
    const x = ones([16]);
    resetPeak("cpu");
    x.mul_(2.5);
    const { peakBytes, liveBytes } = memoryStats("cpu");
    expect(peakBytes).toBe(liveBytes);
  });
});

test("data starts at addresses that kernels can count on, whatever the size", () => {
  scope(() => {
    for (const size of [1, 3, 17, 1000, 1_000_003]) {
      expect(fromArray(new Float32Array(size).fill(2), [size]).sum().item()).toBe(2 * size);
    }
    expect(empty([0]).bytes).toBe(0);
  });
});

test("meta follows the kernels of the card it plans for", () => {
  const costBytes = (body: () => void): number =>
    scope(() => {
      resetPeak("meta");
      const before = memoryStats("meta").liveBytes;
      body();
      return memoryStats("meta").peakBytes - before;
    });
  const half = (shape: number[]) => empty(shape, { dtype: "bfloat16", device: "meta" });
  scope(() => {
    const x = half([100, 64]);
    const rms = () => void _fusedRmsNorm(x, [64], null, 1e-5);
    expect(planningFor({ device: "cuda" }, () => costBytes(rms))).toBe(100 * 64 * 2 + 100 * 4);
    expect(costBytes(rms)).toBeGreaterThan(2 * 100 * 64 * 4);

    const query = half([1, 2, 128, 64]);
    const keys = half([1, 2, 2048, 64]);
    const attend = () => void _scaledDotProductFlashAttention(query, keys, keys);
    const whole = 2 * 128 * 64 * 2 + 2 * 128 * 4 + 16 + 8; // the last two: random number state, of two words and of one
    expect(planningFor({ device: "cuda" }, () => costBytes(attend))).toBe(whole);
    const splits = 8; // 2048 keys in blocks of 256, for 4 blocks of queries on 264 slots
    const splitBytes = splits * 2 * 128 * (64 + 1) * 4;
    expect(planningFor({ device: "cuda", multiprocessors: 132 }, () => costBytes(attend))).toBe(
      whole + splitBytes,
    );
  });
});

test("threads can be set, and nonsense is refused", () => {
  const before = getThreads();
  setThreads(1);
  expect(getThreads()).toBe(1);
  setThreads(before);
  expect(() => setThreads(0)).toThrow("a number of threads of 0");
});

test("a machine without a card says so, and tells why on use", () => {
  expect(libtorchVersion()).toMatch(/^2\.11\./);
  expect(hasCuda()).toBe(cudaDevices() > 0);
  synchronize("cpu");
  if (hasCuda()) return expect(cudaProblem()).toBe(undefined);
  expect(cudaProblem()).toContain("CUDA can't be used");
  expect(() => zeros([1], { device: "cuda:0" })).toThrow("CUDA can't be used");
});

test.each([
  [75, "none of bf16, flash attention, fp8"],
  [86, "bf16, flash attention"],
  [90, "bf16, flash attention, fp8"],
])("a card of compute capability %d can do: %s", (capability, can) => {
  const text = describeCard({ name: "Card", capability, totalBytes: 24 * 2 ** 30, multiprocessors: 1 });
  expect(text).toBe(`Card, 24.0 GiB, compute capability ${capability / 10}: ${can}`.replace("9:", "9.0:"));
});

test.skipIf(hasCuda())("without a driver, asking for a card says so", () => {
  expect(() => cardInfo("cuda:0")).toThrow(/libcuda|driver/);
});

test.skipIf(hasCuda())("without a card, its memory has no books", () => {
  expect(() => memoryStats("cuda:9")).toThrow("CUDA can't be used");
  expect(() => setCap("cuda:9", 1)).toThrow("CUDA can't be used");
});
