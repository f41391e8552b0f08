/**
 * Every operator needs as much memory on meta as on the CPU, so that a planned step has the peak of a real
 * one.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  failAtAllocation,
  memoryStats,
  resetPeak,
  setThreads,
  type TrackedDevice,
} from "../../src/torch/device.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { FUNCTIONS, METHODS } from "../../src/torch/ops.ts";
import { scope } from "../../src/torch/tensor.ts";
import { ALL, type Case } from "./torchCases.ts";
import { Inputs, type Sizes } from "./torchInputs.ts";

setThreads(2);

/** Operators without a meta kernel, and why none is possible or needed. */
const NO_META: Record<string, string> = {
  nonzero: "the shape depends on data",
  unique: "the shape depends on data",
  maskedSelect: "the shape depends on data",
  equal: "the result is data",
  allclose: "the result is data",
  multinomial: "for generation, which is not planned",
  conv2d: "the step writes its convolution as reshape and linear",
  scaledDotProductAttention: "picks its kernel by device: the step names the kernel",
};

const HALVES: DType[] = ["bfloat16", "float16"];

/** Extra memory of CPU kernels that meta kernels do not count. The step uses none of these calls. */
const MORE_ON_CPU: { names: RegExp; dtypes?: DType[]; reason: string }[] = [
  { names: /^(any|all)(Dim)?(:|$)/, reason: "a copy as bool" },
  { names: /^(sort|argsort)(:|$)/, reason: "a buffer of one row" },
  { names: /^(max|min|argmax|argmin): (turned|slice)/, reason: "a contiguous copy" },
  { names: /^repeat$/, reason: "strides, as small tensors" },
  { names: /^upsampleBicubic2d$/, reason: "tables of weights and indexes" },
  { names: /^add: float64|^sumDim: float64/, reason: "a copy in the wider dtype" },
  { names: /^sum(:|$)|^mean(:|$)/, reason: "a partial sum of each thread" },
  { names: /^mean|^sum/, dtypes: HALVES, reason: "a copy in float32" },
  { names: /^(gather|scatter)/, dtypes: HALVES, reason: "a copy in float32" },
];

/** Each thread at work allocates for itself, and how many work at once is chance. */
const BY_THREADS = "_scaledDotProductFlashAttentionForCpuBackward";

const sizes = fc.record({
  rows: fc.integer({ min: 2, max: 900 }),
  columns: fc.integer({ min: 2, max: 140 }),
  inner: fc.integer({ min: 1, max: 90 }),
  heads: fc.integer({ min: 1, max: 4 }),
  headDim: fc.constantFrom(8, 16, 32),
});

/** Returns the bytes at the peak of a call and after it, above the bytes before it. */
function cost(
  run: Case,
  wanted: Omit<Sizes, "device">,
  device: TrackedDevice,
): { peak: number; live: number } {
  return scope(() => {
    const inputs = new Inputs({ ...wanted, device });
    resetPeak(device);
    const before = memoryStats(device).liveBytes;
    const { peakBytes, liveBytes } = scope(() => {
      run(inputs);
      return memoryStats(device);
    });
    return { peak: peakBytes - before, live: liveBytes - before };
  });
}

const nameOf = (key: string): string => key.split(":")[0] ?? key;
const planned = Object.entries(ALL).filter(([key]) => !NO_META[nameOf(key)] && key !== BY_THREADS);

describe.each(["float32", "float64", "bfloat16", "float16"] as const)("in %s", (dtype) => {
  const differs = (key: string) =>
    MORE_ON_CPU.find(({ names, dtypes }) => names.test(key) && (dtypes?.includes(dtype) ?? true));

  test.each(planned.filter(([key]) => !differs(key)))("%s has the same peak on meta and cpu", (_, run) => {
    fc.assert(
      fc.property(sizes, (some) => {
        expect(cost(run, { ...some, dtype }, "meta")).toEqual(cost(run, { ...some, dtype }, "cpu"));
      }),
      { numRuns: 8 },
    );
  });

  test.each(planned.filter(([key]) => differs(key)))("%s leaves the same bytes on meta and cpu", (_, run) => {
    fc.assert(
      fc.property(sizes, (some) => {
        const [meta, cpu] = [cost(run, { ...some, dtype }, "meta"), cost(run, { ...some, dtype }, "cpu")];
        expect(meta.live).toBe(cpu.live);
        expect(meta.peak).toBeLessThanOrEqual(cpu.peak);
      }),
      { numRuns: 4 },
    );
  });
});

test("the attention's backward has the same peak on meta and cpu with one thread, and is planned with all at work", () => {
  const run = ALL[BY_THREADS] as Case;
  fc.assert(
    fc.property(sizes, fc.constantFrom("float32" as const, "float64" as const, ...HALVES), (some, dtype) => {
      const both = (threads: number) => {
        setThreads(threads);
        return [
          cost(run, { ...some, dtype }, "meta").peak,
          cost(run, { ...some, dtype }, "cpu").peak,
        ] as const;
      };
      const [meta, cpu] = both(1);
      expect(meta).toBe(cpu);
      const [metaThreads, cpuThreads] = both(2);
      const rowSumsBytes = 256 * 8;
      expect(metaThreads).toBeGreaterThanOrEqual(cpuThreads);
      // In half precision the library's products need more memory in each thread.
      if (!HALVES.includes(dtype)) expect(metaThreads - cpuThreads).toBeLessThanOrEqual(rowSumsBytes);
    }),
    { numRuns: 30 },
  );
});

test("a batched product that is refused memory changes nothing for the products after it", () => {
  const some = { rows: 64, columns: 64, inner: 64, heads: 1, headDim: 8, dtype: "bfloat16" } as const;
  const scratch = (): number => cost(ALL.mm as Case, some, "cpu").peak;
  const before = scratch();
  scope(() => {
    const inputs = new Inputs({ ...some, device: "cpu" });
    const [left, right] = [inputs.x(3, 64, 64), inputs.x(3, 64, 64)];
    failAtAllocation("cpu", 2); // the result comes first
    try {
      left.bmm(right); // made without oneDNN; ATen reports this on stderr if oneDNN was to make it
    } finally {
      failAtAllocation("cpu", 0);
    }
  });
  expect(scratch()).toBe(before);
});

test("every operator of the tables has a case", () => {
  const covered = new Set(Object.keys(ALL).map(nameOf));
  const forCuda =
    /FlashAttention(Backward)?$|[eE]fficientAttention|CudnnAttention|_scaledMm|_fusedRmsNormBackward|_flashAttention|pinMemory|_intMm/;
  const names = [...Object.keys(METHODS), ...Object.keys(FUNCTIONS)].filter((name) => !forCuda.test(name));
  expect(names.filter((name) => !covered.has(name))).toEqual([]);
});

test("operators without a meta kernel say so", () => {
  for (const [key, run] of Object.entries(ALL)) {
    if (!NO_META[nameOf(key)]) continue;
    const some = {
      rows: 4,
      columns: 6,
      inner: 3,
      heads: 2,
      headDim: 8,
      dtype: "float32",
      device: "meta",
    } as const;
    expect(() => scope(() => void run(new Inputs(some))), key).toThrow(/^aten::/);
  }
});
