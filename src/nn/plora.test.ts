import { describe, expect, it } from "vitest";
import { randomTensor, relativeDifference } from "../../tests/helpers/randomModel.ts";
import { empty, zeros } from "../torch/create.ts";
import { memoryStats, planningFor } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { copiedValues, denseMatrix, type FrozenMatrix } from "./frozen/frozen.ts";
import { emptyQuantized, quantize } from "./frozen/quantized.ts";
import { addInputGradient_, addLinear_, type Linear, linearBackward, linearForward } from "./linear.ts";
import { type FrozenLinear, mergedWherePays, type Visit } from "./plora.ts";
import type { Rows } from "./rows.ts";

const [OUTS, INS, RANK] = [96, 64, 24];
const TOKENS = 90;
/** PLoRA rows, with other rows between them. */
const ROWS = {
  "many, and few in two gaps": [
    { start: 3, end: 30 },
    { start: 40, end: 90 },
  ],
  "few, at both ends": [
    { start: 0, end: 2 },
    { start: 87, end: 90 },
  ],
  "each second one": Array.from({ length: TOKENS / 2 }, (_, at) => ({ start: 2 * at, end: 2 * at + 1 })),
  all: [{ start: 0, end: TOKENS }],
};
const often: Visit = { plora: "merged", ploraRows: ROWS.all, products: 100 };

function linearOf(weight: FrozenMatrix): Linear {
  const [a, b] = [
    [RANK, INS],
    [OUTS, RANK],
  ].map((shape, index) => randomTensor(shape, 3 + index, { dtype: "float32" }));
  return { weight, plora: { a: a!, b: b!, scale: 2 }, lora: undefined };
}

/** All products that a step makes with a linear. */
function products(linear: Linear, ploraRows: readonly Rows[]): Tensor[] {
  const info = { place: 0, ploraRows };
  const numbers = (columns: number, seed: number): Tensor =>
    randomTensor([TOKENS, columns], seed, { dtype: "float32" });
  const [x, dy, y, dx] = [numbers(INS, 7), numbers(OUTS, 8), numbers(OUTS, 9), numbers(INS, 10)];
  addLinear_(y, x, linear, info);
  addInputGradient_(dx, dy, linear, info);
  return [y, dx, linearForward(x, linear, info), linearBackward(dy, x, linear, info)];
}

describe.each(["dense", "int8", "nf4", "fp8"] as const)("a weight held as %s", (precision) => {
  it("has the same products merged as apart, and stays as it is", () => {
    scope(() => {
      const weight = randomTensor([OUTS, INS], 5, { dtype: "float32" });
      const matrix =
        precision === "dense" ? denseMatrix(weight) : quantize(weight, precision, { device: "cpu" });
      const values = copiedValues(matrix, weight);
      const linear = linearOf(matrix);
      const merged = mergedWherePays(linear, often);
      expect(merged.merged?.shape).toEqual([OUTS, INS]);
      for (const [name, rows] of Object.entries(ROWS)) {
        const apart = products(linear, rows);
        products(merged, rows).forEach((product, index) => {
          expect(relativeDifference(product, apart[index]!), name).toBeLessThan(1e-5);
        });
      }
      expect(relativeDifference(copiedValues(matrix, weight), values)).toBe(0);
    });
  });
});

it("a merged weight is of the working set, and gone with its scope", () => {
  scope(() => {
    const linear = linearOf(denseMatrix(randomTensor([OUTS, INS], 5, { dtype: "float32" })));
    const working = (): number => memoryStats("cpu").liveByCategory.workingSet;
    const before = working();
    scope(() => {
      mergedWherePays(linear, often);
      expect(working() - before).toBe(OUTS * INS * 4);
    });
    expect(working()).toBe(before);
  });
});

/** Returns whether a linear of a shape is merged for so many rows; computes nothing. */
function merges(
  [outs, ins, rank]: readonly [number, number, number],
  rows: number,
  { products = 1, plora = "merged" as Visit["plora"], base = "dense" as "dense" | "fp8" } = {},
): boolean {
  return scope(() => {
    const options = { dtype: "bfloat16", device: "meta" } as const;
    const weight =
      base === "dense" ? denseMatrix(empty([outs, ins], options)) : emptyQuantized([outs, ins], base, "meta");
    const linear: FrozenLinear = {
      weight,
      plora: { a: zeros([rank, ins], options), b: zeros([outs, rank], options), scale: 1 },
    };
    const visit = { plora, products, ploraRows: [{ start: 0, end: rows }] };
    return mergedWherePays(linear, visit).merged !== undefined;
  });
}

describe("what is merged", () => {
  const w1 = [14336, 4096, 256] as const;

  it("has clearly more image rows than in out / (in + out), counted for each product", () => {
    const breakEvenRows = (14336 * 4096) / (14336 + 4096);
    expect(merges(w1, Math.floor(1.49 * breakEvenRows))).toBe(false);
    expect(merges(w1, Math.ceil(1.51 * breakEvenRows))).toBe(true);
    expect(merges(w1, Math.ceil(0.76 * breakEvenRows), { products: 2 })).toBe(true);
    expect(merges(w1, 0)).toBe(false);
  });

  it("is of a rank that is worth a copy of the weight", () => {
    expect(merges([6144, 4096, 8], 20_000)).toBe(false);
    expect(merges([6144, 4096, 256], 20_000)).toBe(true);
  });

  it("is nothing where the policy keeps it apart, or a card multiplies the base in fp8", () => {
    expect(merges(w1, 20_000, { plora: "apart" })).toBe(false);
    expect(merges(w1, 20_000, { base: "fp8" })).toBe(true);
    planningFor({ device: "cuda", computeCapability: 8.9 }, () => {
      expect(merges(w1, 20_000, { base: "fp8" })).toBe(false);
    });
  });
});
