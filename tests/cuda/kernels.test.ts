/**
 * The CUDA sources of the fused kernels: they compile for every card, and they compute what their twins
 * compute.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test, vi } from "vitest";
import { nf4Values, quantizeNf4 } from "../../src/nn/frozen/nf4.ts";
import { cat, empty, fromBytes, rand, randint, randn, zeros } from "../../src/torch/create.ts";
import { memoryStats, planningFor, resetPeak } from "../../src/torch/device.ts";
import { fused } from "../../src/torch/kernels/kernels.ts";
import { compileKernel, findNvrtc, type Nvrtc } from "../../src/torch/kernels/nvrtc.ts";
import { native } from "../../src/torch/native.ts";
import { manualSeed } from "../../src/torch/random.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import {
  CASES,
  compareToTwin,
  difference,
  type KernelCase,
  kernelOf,
  ROUNDING,
  type Scalars,
  type Sizes,
} from "./kernelCases.ts";
import { canWatchThreads, removePrograms, runOnCpu } from "./onCpu.ts";

const NAMES = Object.keys(fused) as (keyof typeof fused)[];
const DTYPES = Object.keys(ROUNDING) as Scalars[];
const CAPABILITIES = [75, 80, 86, 89, 90, 100, 120];

const sizes = fc.record({
  rows: fc.integer({ min: 1, max: 9 }),
  columns: fc.integer({ min: 1, max: 700 }),
  extra: fc.integer({ min: 0, max: 4 }),
});

afterAll(removePrograms);

/** Runs a kernel's source on the CPU and compares it with the kernel's twin. */
function compare(name: keyof typeof fused, made: KernelCase, dtype: Scalars): void {
  const kernel = kernelOf(name);
  const { source, entry } = kernel;
  const { inputs, options } = made;
  compareToTwin(kernel, made, dtype, () => {
    const results = runOnCpu({ source, entry, dtype }, kernel.work(inputs, options));
    return (index) => fromBytes(results.get(index)!, inputs[index]!.shape, inputs[index]!.dtype);
  });
}

describe.each(DTYPES)("in %s, as C++ on the CPU,", (dtype) => {
  test.each(NAMES)("%s computes what its twin does", (name) => {
    const run = (some: Sizes, seed: number) =>
      scope(() => {
        manualSeed(seed);
        compare(name, CASES[name](some, dtype), dtype);
      });
    run({ rows: 2, columns: 1, extra: 0 }, 1);
    run({ rows: 3, columns: 256, extra: 3 }, 2);
    run({ rows: 35, columns: 1288, extra: 4 }, 3);
    fc.assert(fc.property(sizes, fc.nat(), run), { numRuns: 4 });
  });
});

describe("the threads of a block", () => {
  const withoutBarriers = (text: string) => text.replaceAll("__syncthreads();", "");
  const watched = canWatchThreads();
  if (!watched)
    console.warn("SKIPPED: g++ can't watch threads here, so no race between those of a kernel is looked for");

  test.skipIf(!watched).each(NAMES)("are at no memory together without a barrier between: %s", (name) => {
    scope(() => {
      manualSeed(4);
      const { source, entry, work } = kernelOf(name);
      const { inputs, options } = CASES[name]({ rows: 3, columns: 530, extra: 3 }, "float32");
      runOnCpu({ source, entry, dtype: "float32" }, work(inputs, options), { checks: "thread" });
    });
  });

  test.skipIf(!watched)("would be found where a barrier is missing", () => {
    const { source, entry, work } = kernelOf("rmsNorm");
    scope(() => {
      const { inputs, options } = CASES.rmsNorm({ rows: 2, columns: 530, extra: 0 }, "float32");
      const launch = work(inputs, options);
      expect(() =>
        runOnCpu({ source, entry, dtype: "float32" }, launch, { checks: "thread", change: withoutBarriers }),
      ).toThrow(/data race/);
    });
  });
});

test("rope works in place: queries, keys and values may be views of u", () => {
  scope(() => {
    const [T, G, Q, D] = [5, 2, 3, 20] as const;
    const packed = () => {
      const u = randn([T, G, Q + 2, D]);
      return [u, randn([T, D / 2]), randn([T, D / 2]), u.narrow(2, 0, Q), u.select(2, Q), u.select(2, Q + 1)];
    };
    const inside = Object.fromEntries(
      [0, Q * D, (Q + 1) * D].map((offsetElements, at) => [3 + at, { of: 0, offsetElements }]),
    );
    for (const name of ["ropeUnpack", "ropePack"] as const) {
      const inputs = packed() as Tensor[];
      const kernel = kernelOf(name);
      const { source, entry } = kernel;
      const results = runOnCpu({ source, entry, dtype: "float32" }, kernel.work(inputs, undefined), {
        inside,
      });
      kernel(inputs, undefined); // the twin also works in place
      const actual = fromBytes(results.get(0)!, inputs[0]!.shape, "float32").toFloat32Array();
      expect(difference(actual, inputs[0]!.toFloat32Array())).toBeLessThan(1e-6);
    }
  });
});

test("rope back undoes rope, where tables are of real angles", () => {
  scope(() => {
    const u = randn([4, 1, 3, 16], { dtype: "float64" });
    const angle = randn([4, 8], { dtype: "float64" });
    const before = u.clone();
    const views = [u.narrow(2, 0, 1), u.select(2, 1), u.select(2, 2)] as const;
    fused.ropeUnpack([u, angle.cos(), angle.sin(), ...views]);
    expect(u.allclose(before)).toBe(false);
    fused.ropePack([u, angle.cos(), angle.sin(), ...views]);
    expect(u.allclose(before)).toBe(true);
  });
});

test.each(["dropped", "addDropped", "turnedBytes"] as const)("%s takes rows that lie apart", (name) => {
  scope(() => {
    const kernel = kernelOf(name);
    const made = CASES[name]({ rows: 9, columns: 70, extra: 1 }, "float32");
    const apart = kernel.strided ?? [];
    // Repeats this in the first columns of wider matrices, which the kernel gets as a whole.
    const wider = made.inputs.map((input, at) =>
      apart.includes(at) ? cat([input, input.narrow(1, 0, 5)], 1) : input,
    );
    const windows = wider.map((input, at) =>
      apart.includes(at) ? input.narrow(1, 0, input.shape[1]! - 5) : input,
    );
    const launch = kernel.work(windows, made.options);
    const inputs = launch.inputs.map((input) => wider[windows.indexOf(input as Tensor)] ?? input);
    const { source, entry } = kernel;
    const results = runOnCpu({ source, entry, dtype: "float32" }, { ...launch, inputs });
    kernel.twin(made.inputs, made.options);
    const [out, right] = [wider[0]!, made.inputs[0]!];
    const whole = fromBytes(results.get(0)!, out.shape, out.dtype);
    expect(whole.narrow(1, 0, right.shape[1]!).allclose(right)).toBe(true);
    expect(
      whole
        .narrow(1, right.shape[1]!, out.shape[1]! - right.shape[1]!)
        .equal(out.narrow(1, right.shape[1]!, out.shape[1]! - right.shape[1]!)),
    ).toBe(true);
  });
});

test("a window of columns of an int8 matrix is read by its stride", () => {
  scope(() => {
    const codes = randint(-127, 128, [5, 40], { dtype: "int8" });
    const [window, out, scales] = [codes.narrow(1, 8, 19), zeros([5, 19]), rand([5])];
    const { source, entry, work, twin } = fused.dequantizeInt8;
    const launch = work([out, window, scales], { unit: 0.5 });
    const inputs = launch.inputs.map((input) => (input === window ? codes : input)); // whole; the next line moves its start
    const shifted = [...inputs.slice(0, 1), codes.view([-1]).narrow(0, 8, 192), ...inputs.slice(2)];
    const results = runOnCpu({ source, entry, dtype: "float32" }, { ...launch, inputs: shifted });
    twin([out, window, scales], { unit: 0.5 });
    expect(
      difference(fromBytes(results.get(0)!, [5, 19], "float32").toFloat32Array(), out.toFloat32Array()),
    ).toBeLessThan(1e-6);
  });
});

test("NF4 read back by its kernel, and by its twin, is what the quantised matrices are", () => {
  scope(() => {
    const matrix = quantizeNf4(randn([24, 192]), { device: "cpu" });
    const { codes, absmax, nestedMap, nestedAbsmax, offset, width } = matrix;
    const out = empty([10, 64]);
    const window = nf4Values({ ...matrix, rows: { start: 7, end: 17 }, columns: { start: 64, end: 128 } });
    for (const read of [fused.dequantizeNf4, fused.dequantizeNf4.twin]) {
      out.zero_();
      read([out, codes, absmax, nestedMap, nestedAbsmax], { offset, width, row: 7, column: 64 });
      expect(out.equal(window)).toBe(true);
    }
  });
});

test("a plan allocates nothing in a fused kernel, and what its twin does for a dtype that it doesn't know", () => {
  scope(() => {
    const peak = (dtype: "bfloat16" | "float64") => {
      const [out, gate, up] = [1, 2, 3].map(() => empty([4096], { dtype, device: "meta" })) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      resetPeak("meta");
      fused.swiglu([out, gate, up]);
      return memoryStats("meta").peakBytes - memoryStats("meta").liveBytes;
    };
    expect(planningFor({ device: "cuda" }, () => peak("bfloat16"))).toBe(0);
    expect(peak("bfloat16")).toBe(0);
    expect(peak("float64")).toBe(8 * 4096);
  });
});

test("what is not contiguous is refused", () => {
  scope(() => {
    const turned = randn([4, 6]).t();
    expect(() => fused.swiglu([turned, turned, turned])).toThrow("swiglu: inputs must be contiguous");
  });
});

/**
 * Returns NVRTC if this machine has it. It needs no card: LORAFIT_NVRTC, libtorch's packages or the system
 * may have it.
 */
function nvrtcHere(): Nvrtc | undefined {
  try {
    return findNvrtc();
  } catch {
    return undefined;
  }
}
const nvrtc = nvrtcHere();
if (!nvrtc)
  console.warn(
    "SKIPPED: kernels are not compiled, for there is no NVRTC here (pip's nvidia-cuda-nvrtc; LORAFIT_NVRTC)",
  );

describe.skipIf(!nvrtc)("with NVRTC", () => {
  test.each(CAPABILITIES)("every kernel compiles for compute capability %d", (capability) => {
    const folder = mkdtempSync(join(tmpdir(), "lorafit-cubins-"));
    for (const name of NAMES) {
      for (const dtype of capability === CAPABILITIES[0] ? DTYPES : (["bfloat16"] as const)) {
        const { source, entry } = kernelOf(name);
        const code = compileKernel({ source, entry, dtype }, capability, nvrtc, folder);
        expect(Buffer.from(code.subarray(0, 4)).toString("latin1"), `${entry} ${dtype}`).toBe("\x7fELF");
        expect(Buffer.from(code).includes(entry)).toBe(true);
      }
    }
    rmSync(folder, { recursive: true });
  });

  test("machine code is compiled once and kept on disk, whole; a folder that can't be written is no error", () => {
    const folder = mkdtempSync(join(tmpdir(), "lorafit-cubins-"));
    const swiglu = { source: "swiglu", entry: "swiglu", dtype: "bfloat16" } as const;
    const compiling = vi.spyOn(native, "nvrtcCompile");
    const code = (where = folder): Buffer => Buffer.from(compileKernel(swiglu, 80, nvrtc, where));
    const first = code();
    const [file, ...others] = readdirSync(folder);
    expect(others).toEqual([]);
    expect(code()).toEqual(first);
    expect(compiling).toHaveBeenCalledTimes(1);
    expect(code(join(folder, file!, "below a file"))).toEqual(first);
    rmSync(folder, { recursive: true });
  });

  test.each([
    ["cut short", (bytes: Buffer) => bytes.subarray(0, 1000)],
    ["empty", () => Buffer.alloc(0)],
    ["of zeros at its end", (bytes: Buffer) => Buffer.from(bytes).fill(0, bytes.length - 500)],
  ])("machine code that a crash left %s is compiled anew, and kept", (_, harmed) => {
    const folder = mkdtempSync(join(tmpdir(), "lorafit-cubins-"));
    const swiglu = { source: "swiglu", entry: "swiglu", dtype: "bfloat16" } as const;
    const code = (): Buffer => Buffer.from(compileKernel(swiglu, 80, nvrtc, folder));
    const first = code();
    const file = join(folder, readdirSync(folder)[0]!);
    const whole = readFileSync(file);
    writeFileSync(file, harmed(whole));
    expect(code()).toEqual(first);
    expect(readFileSync(file)).toEqual(whole);
    rmSync(folder, { recursive: true });
  });

  test("a card that NVRTC doesn't know is a user's error that says which it knows", () => {
    const swiglu = { source: "swiglu", entry: "swiglu", dtype: "float32" } as const;
    expect(() => compileKernel(swiglu, 35, nvrtc)).toThrow(/capabilities 75 to \d+, and this card has 35/);
  });
});
