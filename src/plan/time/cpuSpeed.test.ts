import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { attentionKey, type CpuSpeed, cpuOpMs, curveMs, productMs } from "./cpuSpeed.ts";
import { type TracedTensor, traceOp } from "./opCost.ts";
import { stepTimeMs } from "./stepTime.ts";

const wide = (...shape: number[]): TracedTensor => ({ shape, dtype: "float32" });
const half = (...shape: number[]): TracedTensor => ({ shape, dtype: "bfloat16" });

/**
 * 1 ns per element of a sum. Products take 1 GFLOP/s if they have a size of 8, and a thousand times that if
 * all sizes are 512.
 */
const EDGES = [8, 512];
const rates = {
  edges: EDGES,
  flopsPerSecond: EDGES.flatMap((m) =>
    EDGES.flatMap((k) => EDGES.map((n) => (m + k + n === 1536 ? 1e12 : 1e9))),
  ),
};
const linear = (msPerElement: number) => ({
  sizes: [1000, 1e6],
  ms: [1000 * msPerElement, 1e6 * msPerElement],
});
const speed: CpuSpeed = {
  products: { "a b": rates, "a b'": rates, "a' b": rates },
  curves: {
    "add float32": linear(1e-6),
    "mul bfloat16": linear(2e-6),
    "mul bfloat16 strided": linear(10e-6),
    "_softmax bfloat16": linear(4e-6),
  },
  viewMs: 0.001,
  copies: { sizes: [1, 1e9], ms: [0.01, 100] },
  copyShare: 0.5,
};

describe("the time of an op on a CPU", () => {
  const ms = (op: string, ...tensors: TracedTensor[]): number =>
    cpuOpMs(traceOp({ op, inputs: tensors, outputs: [tensors[0]!] }), speed);

  it("is its class's, by elements", () => {
    expect(ms("mul.Tensor", half(100, 100), half(100, 100))).toBeCloseTo(0.02, 9);
    expect(ms("add.Tensor", wide(100, 100), wide(100, 100))).toBeCloseTo(0.01, 9);
  });

  it("is the same in place, where only the other was measured", () => {
    expect(ms("mul_.Tensor", half(100, 100), half(100, 100))).toBeCloseTo(0.02, 9);
  });

  it("of rows that lie apart is measured, or longer by as much as a product's", () => {
    expect(ms("mul.Tensor", { ...half(100, 100), strided: true }, half(100, 1))).toBeCloseTo(0.1, 9);
    expect(ms("_softmax", { ...half(100, 100), strided: true })).toBeCloseTo(0.2, 9);
  });

  it("of attention lies on the line through two sizes of heads, by the pairs that are multiplied, seen or not", () => {
    const op = "_scaled_dot_product_flash_attention_for_cpu";
    const curves = {
      ...speed.curves,
      [attentionKey(op, "float32", 32)]: { sizes: [1, 1e9], ms: [1e-6, 1e3] },
      [attentionKey(op, "float32", 128)]: { sizes: [1, 1e9], ms: [3e-6, 3e3] },
    };
    const heads = (tokens: number, features: number) => wide(1, 2, tokens, features);
    const attention = (tokens: number, features: number, causal: boolean): number => {
      const x = heads(tokens, features);
      return cpuOpMs(traceOp({ op, causal, inputs: [x, x, x], outputs: [x] }), { ...speed, curves });
    };
    expect(attention(500, 32, false)).toBeCloseTo(0.5, 9);
    expect(attention(500, 128, false)).toBeCloseTo(1.5, 9);
    expect(attention(500, 80, false)).toBeCloseTo(1, 9);
    expect(attention(500, 32, true)).toBeCloseTo(0.5, 9);
    expect(attention(1024, 32, true) / attention(1024, 32, false)).toBeCloseTo(0.75, 9);
    expect(attention(500, 8, false)).toBeCloseTo(0.25, 9);
  });

  it("of no class follows from its bytes", () => {
    expect(ms("fancy", wide(10_000), wide(10_000))).toBeCloseTo(0.01, 9);
    expect(ms("fancy", half(10_000), half(10_000))).toBeCloseTo(0.005, 9);
  });

  it("of a view is that of a call", () => {
    expect(ms("narrow", half(10))).toBe(0.001);
  });

  it("of work on the host counts as any other", () => {
    const host: TracedTensor = { ...wide(10_000), place: "host" };
    const op = traceOp({ op: "add", inputs: [host, host], outputs: [host] });
    expect(stepTimeMs([op], speed)).toBeCloseTo(0.01, 9);
  });
});

describe("the time of a product", () => {
  const rate = (m: number, n: number, k: number): number =>
    (2 * m * n * k) / productMs({ times: 1, m, n, k, layout: "a b" }, speed) / 1e-3;

  it("is as measured at the measured sizes, and beyond them at the edge's rate", () => {
    expect(rate(512, 512, 512) / 1e12).toBeCloseTo(1, 9);
    expect(rate(8, 512, 512) / 1e9).toBeCloseTo(1, 9);
    expect(rate(4096, 2048, 92_544) / 1e12).toBeCloseTo(1, 9);
  });

  it("of fewer rows or columns than were measured is no shorter than of those: the weight is read all the same", () => {
    const least = { times: 1, m: 8, n: 512, k: 512, layout: "a b" } as const;
    expect(productMs({ ...least, m: 1 }, speed)).toBe(productMs(least, speed));
    expect(productMs({ ...least, m: 9 }, speed)).toBeGreaterThan(productMs({ ...least, m: 1 }, speed) * 0.9);
  });

  it("lies between, as a power of the size", () => {
    expect(rate(64, 512, 512) / 10 ** 10.5).toBeCloseTo(1, 9);
  });

  it("repeats for a batch", () => {
    const one = { times: 1, m: 64, n: 64, k: 64, layout: "a' b" } as const;
    expect(productMs({ ...one, times: 5 }, speed)).toBeCloseTo(5 * productMs(one, speed), 9);
  });

  it("is of the rate that lies between the rates around, whatever the sizes", () => {
    const size = fc.integer({ min: EDGES[0]!, max: 5000 });
    fc.assert(
      fc.property(size, size, size, (m, n, k) => {
        expect(rate(m, n, k)).toBeGreaterThanOrEqual(1e9 * (1 - 1e-9));
        expect(rate(m, n, k)).toBeLessThanOrEqual(1e12 * (1 + 1e-9));
      }),
    );
  });
});

it("a curve rises between its points, stays at its start, and goes on in proportion", () => {
  const curve = { sizes: [10, 1000], ms: [1, 10] };
  expect(curveMs(curve, 1)).toBe(1);
  expect(curveMs(curve, 100)).toBeCloseTo(10 ** 0.5, 9);
  expect(curveMs(curve, 4000)).toBe(40);
});

it("copies beside the computing take their share of the cores, and a step is no shorter than they are", () => {
  const [device, host] = [half(1e6), { ...half(1e6), place: "host" as const }];
  const copy = traceOp({ op: "copy_", inputs: [device, host], outputs: [device] });
  const copyMs = cpuOpMs(copy, speed);
  const sum = traceOp({ op: "add", inputs: [wide(1e7), wide(1e7)], outputs: [wide(1e7)] });
  expect(stepTimeMs([sum, copy], speed)).toBeCloseTo(10 + copyMs / 2, 9);
  expect(stepTimeMs([copy], speed)).toBeCloseTo(copyMs, 9);
});
