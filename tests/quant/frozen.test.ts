import { describe, expect, it } from "vitest";
import {
  addFrozenGradient_,
  addFrozenProduct_,
  denseMatrix,
  type FrozenMatrix,
  frozenColumns,
  frozenGather,
  frozenGradient,
  frozenProduct,
  frozenRows,
  frozenValues,
  SCRATCH_ELEMENTS,
  scratchTiles,
} from "../../src/nn/frozen/frozen.ts";
import { columnGranularity, emptyQuantized, quantize } from "../../src/nn/frozen/quantized.ts";
import type { QuantizedPrecision } from "../../src/nn/frozen/storedNames.ts";
import { type Rows, rowCount } from "../../src/nn/rows.ts";
import { empty, fromArray } from "../../src/torch/create.ts";
import { memoryStats, recordAllocations, resetPeak } from "../../src/torch/device.ts";
import type { Device, DType } from "../../src/torch/dtypes.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { randomTensor, relativeDifference } from "../helpers/randomModel.ts";
import { matrixBytes } from "./matrixBytes.ts";

const PRECISIONS = ["int8", "nf4", "fp8"] as const;
/** Rows of whole blocks; rows that cut blocks; several tiles of scratch by rows and columns. */
const SHAPES = [
  [48, 192],
  [33, 51],
  [2 * 2112, 2048],
] as const;
const CASES = PRECISIONS.flatMap((precision) => SHAPES.map((shape) => ({ precision, shape })));

function sampled([rows, columns]: readonly [number, number]): Tensor {
  return randomTensor([rows, columns], 5, { dtype: "float32", scale: 0.02 });
}

describe.each(CASES)("a matrix of $shape in $precision", ({ precision, shape }) => {
  const [rows, columns] = shape;

  it("multiplies as its values do, forward and back, in any window", () => {
    scope(() => {
      const whole = quantize(sampled(shape), precision, { device: "cpu" });
      const windows: FrozenMatrix[] = [
        whole,
        frozenRows(whole, { start: 3, end: rows - 2 }),
        frozenColumns(frozenRows(whole, { start: 16, end: 32 }), {
          start: columns > 64 ? 64 : 7,
          end: columns,
        }),
        frozenColumns(whole, { start: 0, end: columns > 64 ? columns - 64 : 50 }),
      ];
      for (const window of windows) compareProducts(window);
    });
  });

  it.each(["float32", "bfloat16"] as const)("allocates on meta what it does on the CPU: %s", (dtype) => {
    const [cpu, meta] = (["cpu", "meta"] as const).map((device) =>
      allocations(precision, shape, dtype, device),
    );
    expect(meta).toEqual(cpu);
  });

  it("never has more of itself in full than a scratch and a piece", () => {
    scope(() => {
      const matrix = quantize(sampled(shape), precision, { device: "cpu" });
      const x = randomTensor([2, columns], 1, { dtype: "bfloat16" });
      const beforeBytes = memoryStats("cpu").liveBytes;
      resetPeak("cpu");
      frozenProduct(x, matrix);
      const scratchBytes = 2 * Math.min(rows * columns, SCRATCH_ELEMENTS);
      expect(memoryStats("cpu").peakBytes - beforeBytes).toBeLessThan(scratchBytes + PIECE_BYTES);
    });
  });

  it("is quantised piece by piece", () => {
    scope(() => {
      const source = sampled(shape);
      const beforeBytes = memoryStats("cpu").liveBytes;
      resetPeak("cpu");
      const matrix = quantize(source, precision, { device: "cpu" });
      const statisticsBytes = precision === "nf4" ? (rows * columns) / 4 : 0;
      expect(memoryStats("cpu").peakBytes - beforeBytes).toBeLessThan(
        matrixBytes(matrix) + statisticsBytes + PIECE_BYTES,
      );
      expect(matrixBytes(matrix)).toBe(matrixBytes(emptyQuantized([rows, columns], precision, "cpu")));
    });
  });
});

/**
 * Bytes of a piece's temporaries: 2^18 numbers, at most four times as many in float32 (indices, values,
 * scales).
 */
const PIECE_BYTES = 16 * 2 ** 18 + 20_000;

/**
 * Returns the most scratch bytes of the library's own products of one row, with dense parts of a matrix, on
 * this processor.
 */
function libraryScratchBytes([outs, ins]: readonly [number, number], parts: [Rows[], Rows[]]): number {
  const beside = ([rows, columns]: [number, number], turned: boolean): number =>
    scope(() => {
      const like = { dtype: "bfloat16", device: "meta" } as const;
      const weight = empty([rows, columns], like);
      const [x, y] = [columns, rows].map((features) => empty([1, features], like)) as [Tensor, Tensor];
      return peakAbove(() => (turned ? x.addmm_(y, weight) : y.addmm_(x, weight.t())));
    });
  const [byRows, byColumns] = parts.map((tiles) => tiles.map(rowCount)) as [number[], number[]];
  return Math.max(
    ...byRows.map((rows) => beside([rows, ins], false)),
    ...byColumns.map((columns) => beside([outs, columns], true)),
  );
}

/** Returns the bytes on meta at the peak of a body, above the bytes before it. */
function peakAbove(body: () => unknown): number {
  const beforeBytes = memoryStats("meta").liveBytes;
  resetPeak("meta");
  body();
  return memoryStats("meta").peakBytes - beforeBytes;
}

it.each(PRECISIONS)(
  "has a scratch no larger than it may be, forward and back, for the matrices of 7B: %s",
  (precision) => {
    scope(() => {
      for (const [outs, ins] of [
        [6144, 4096],
        [4096, 4096],
        [14336, 4096],
        [4096, 14336],
      ] as const) {
        const matrix = emptyQuantized([outs, ins], precision, "meta");
        const [x, dy] = [ins, outs].map((features) =>
          empty([1, features], { dtype: "bfloat16", device: "meta" }),
        );
        const parts: [Rows[], Rows[]] = [
          scratchTiles(outs, ins, 1),
          scratchTiles(ins, outs, columnGranularity(matrix)),
        ];
        const pieceBytes = precision === "fp8" ? PIECE_BYTES : 0;
        const mostBytes = 2 * SCRATCH_ELEMENTS + pieceBytes + libraryScratchBytes([outs, ins], parts);
        expect(peakAbove(() => addFrozenProduct_(dy!, x!, matrix))).toBeLessThanOrEqual(mostBytes);
        expect(peakAbove(() => addFrozenGradient_(x!, dy!, matrix))).toBeLessThanOrEqual(mostBytes);
      }
    });
  },
);

describe("what a precision costs in accuracy", () => {
  /**
   * Bounds of
   * W - Q(W)
   *  /
   * W
   *  for normal numbers; measured 0.0087, 0.0921 and 0.0264. outlier: the same ratio in the rest of a matrix
   * in which each row has one outlier of 100 deviations; measured 0.227, 0.097 and 0.027.
   */
  it.each([
    { precision: "int8", plain: 0.0095, outlier: 0.25 },
    { precision: "nf4", plain: 0.0925, outlier: 0.1 },
    { precision: "fp8", plain: 0.0275, outlier: 0.03 },
  ] as const)("$precision", ({ precision, plain, outlier }) => {
    scope(() => {
      const source = sampled([256, 4096]);
      expect(error(source, precision)).toBeLessThan(plain);
      expect(error(source, precision)).toBeGreaterThan(plain / 2);
      source.narrow(1, 77, 1).fill_(2);
      const rest = source.narrow(1, 128, 3968);
      const kept = frozenValues(quantize(source, precision, { device: "cpu" })).narrow(1, 128, 3968);
      expect(normOf(kept.sub(rest)) / normOf(rest)).toBeLessThan(outlier);
    });
  });

  it("is none for rows of zeros and for what codes can say", () => {
    scope(() => {
      const exact = fromArray(Float32Array.of(0, 0, 0, 0, 127, -64, 3, 0), [2, 4]);
      expect(frozenValues(quantize(exact, "int8", { device: "cpu" })).toArray()).toEqual(exact.toArray());
      const eighths = fromArray(Float32Array.of(0, 0, 0, 0, 448, -64, 0.125, 0), [2, 4]);
      expect(frozenValues(quantize(eighths, "fp8", { device: "cpu" })).toArray()).toEqual(eighths.toArray());
    });
  });
});

it("gathers rows of a dense and of an int8 matrix", () => {
  scope(() => {
    const source = sampled([40, 24]);
    const rows = fromArray(Int32Array.of(39, 0, 7, 7), [4], { dtype: "int64" });
    for (const matrix of [denseMatrix(source), quantize(source, "int8", { device: "cpu" })]) {
      const gathered = frozenGather(matrix, rows, source);
      expect(gathered.toArray()).toEqual(frozenValues(matrix).indexSelect(0, rows).toArray());
    }
  });
});

/** Compares all four products in float64 with products of the matrix's full values. */
function compareProducts(matrix: FrozenMatrix): void {
  scope(() => {
    const values = frozenValues(matrix, { dtype: "float64" });
    const [outs, ins] = values.shape as [number, number];
    const x = randomTensor([5, ins], 1);
    const dy = randomTensor([5, outs], 2);
    const [into, dInto] = [randomTensor([5, outs], 3), randomTensor([5, ins], 4)];
    const [y, dx] = [x.mm(values.t()), dy.mm(values)];
    expect(relativeDifference(frozenProduct(x, matrix), y)).toBeLessThan(1e-13);
    expect(relativeDifference(frozenGradient(dy, matrix), dx)).toBeLessThan(1e-13);
    const [sum, dSum] = [into.add(y), dInto.add(dx)];
    addFrozenProduct_(into, x, matrix);
    addFrozenGradient_(dInto, dy, matrix);
    expect(relativeDifference(into, sum)).toBeLessThan(1e-13);
    expect(relativeDifference(dInto, dSum)).toBeLessThan(1e-13);
  });
}

/** Returns the bytes that the four products allocate (above zero) and free (below zero), in order. */
function allocations(
  precision: QuantizedPrecision,
  shape: readonly [number, number],
  dtype: DType,
  device: "cpu" | "meta",
): number[] {
  return scope(() => {
    const whole = quantize(sampled(shape), precision, { device });
    const matrix = frozenRows(whole, { start: 1, end: shape[0] });
    const tokens = (features: number, at: Device): Tensor =>
      empty([5, features], { dtype, device: at }).zero_();
    const [x, dy] = [tokens(shape[1], device), tokens(shape[0] - 1, device)];
    const { log } = recordAllocations(device, () =>
      scope(() => {
        addFrozenProduct_(dy, x, matrix);
        addFrozenGradient_(x, dy, matrix);
        frozenProduct(x, matrix);
        frozenGradient(dy, matrix);
      }),
    );
    return [...log.bytes].filter((bytes) => Math.abs(bytes) > 8);
  });
}

function error(source: Tensor, precision: QuantizedPrecision): number {
  return scope(() => {
    const values = frozenValues(quantize(source, precision, { device: "cpu" }));
    return normOf(values.sub(source)) / normOf(source);
  });
}

function normOf(x: Tensor): number {
  return scope(() => x.square().sum().sqrt().item());
}
