/**
 * Compares bfloat16 products on the CPU with float32 products, in every layout, at each level that the
 * processor has. lorafit's own loops compute them from AVX512-BF16 on.
 */
import fc from "fast-check";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { empty, randn } from "../../src/torch/create.ts";
import { getThreads, setThreads } from "../../src/torch/device.ts";
import { LOOP_LEVELS, type LoopLevel, native } from "../../src/torch/native.ts";
import { manualSeed } from "../../src/torch/random.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";

/**
 * How a matrix lies in memory: row by row or column by column. Each line has `before` other elements before
 * it and `gap` after it.
 */
interface Layout {
  columnsFirst: boolean;
  gap: number;
  before: number;
}

interface Case {
  rows: number;
  columns: number;
  inner: number;
  left: Layout;
  right: Layout;
  into: Layout;
  alpha: number;
  beta: number;
  seed: number;
}

const layout = fc.record<Layout>({
  columnsFirst: fc.boolean(),
  gap: fc.integer({ min: 0, max: 3 }),
  before: fc.integer({ min: 0, max: 3 }),
});
const size = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 41, max: 400 }));
const product = fc.record<Case>({
  ...{ rows: size, columns: size, inner: size, left: layout, right: layout, into: layout },
  ...{ alpha: fc.constantFrom(1, -0.5, 2), beta: fc.constantFrom(0, 1, 0.5), seed: fc.nat() },
});
const PLAIN: Layout = { columnsFirst: false, gap: 0, before: 0 };

/**
 * Returns the values inside a larger memory full of NaN, so that a product that reads too far becomes NaN.
 */
function matrixOf(values: Tensor, { columnsFirst, gap, before }: Layout): Tensor {
  const [rows, columns] = values.shape as [number, number];
  const [many, long] = columnsFirst ? [columns, rows] : [rows, columns];
  const memory = empty([many, before + long + gap], { dtype: "bfloat16" }).fill_(Number.NaN);
  const inside = memory.narrow(1, before, long);
  const matrix = columnsFirst ? inside.t() : inside;
  matrix.copy_(values);
  return matrix;
}

/** Returns the product computed by addmm_ in bfloat16, and the product in float32. */
function both({ rows, columns, inner, left, right, into, alpha, beta, seed }: Case): [Tensor, Tensor] {
  manualSeed(seed);
  const [a, b, c] = [
    matrixOf(randn([rows, inner]), left),
    matrixOf(randn([inner, columns]), right),
    matrixOf(randn([rows, columns]), into),
  ];
  const wide = (x: Tensor): Tensor => x.to({ dtype: "float32" });
  const expected = wide(c)
    .mul(beta)
    .add_(wide(a).mm(wide(b)), { alpha });
  return [c.addmm_(a, b, { alpha, beta }), expected];
}

/** Allows one rounding to bfloat16, plus the error of summing `inner` products in another order. */
function expectClose(got: Tensor, expected: Tensor, inner: number): void {
  const off = got.to({ dtype: "float32" }).sub(expected).abs();
  const allowed = expected
    .abs()
    .mul(2 ** -8)
    .add_(1e-5 * Math.sqrt(inner));
  expect(off.sub(allowed).max().item()).toBeLessThanOrEqual(0);
}

const best = native.loopLevel();
const own = (level: LoopLevel): boolean => level === "avx512bf16" || level === "amx";
const LEVELS = LOOP_LEVELS.slice(LOOP_LEVELS.indexOf("avx512"), LOOP_LEVELS.indexOf(best) + 1);

afterAll(() => void native.loopLevel(best));
if (!own(best))
  console.warn("SKIPPED: products of bfloat16 are libtorch's on this processor, which may depend on threads");

describe.each(LEVELS.length > 0 ? LEVELS : [best])("products of bfloat16 at the level %s", (level) => {
  beforeEach(() => void native.loopLevel(level));

  test("are those of float32 rounded once, in every layout", () => {
    fc.assert(
      fc.property(product, (some) => {
        scope(() => expectClose(...both(some), some.inner));
      }),
      { numRuns: 150 },
    );
  });

  test.each([
    ["of many panels and tiles", 500, 1100, 130],
    ["longer along their sums than what is packed at a time", 70, 70, 9001],
    ["of one row", 1, 3000, 700],
    ["of one column", 1500, 1, 701],
    ["of the rank of a LoRA", 1500, 640, 16],
  ])("%s", (_, rows, columns, inner) => {
    const seed = 1;
    for (const columnsFirst of [false, true]) {
      const turned = { ...PLAIN, columnsFirst };
      const some = {
        rows,
        columns,
        inner,
        left: turned,
        right: turned,
        into: PLAIN,
        alpha: 1,
        beta: 1,
        seed,
      };
      scope(() => expectClose(...both(some), some.inner));
      scope(() => {
        manualSeed(seed);
        const [a, b] = [randn([rows, inner]), randn([inner, columns])].map((x) => matrixOf(x, turned));
        expectClose(a!.mm(b!), a!.to({ dtype: "float32" }).mm(b!.to({ dtype: "float32" })), inner);
      });
    }
  });

  test.runIf(own(level))("do not depend on the number of threads", () => {
    const before = getThreads();
    const some = {
      rows: 700,
      columns: 300,
      inner: 5000,
      left: PLAIN,
      right: PLAIN,
      into: PLAIN,
      alpha: 1,
      beta: 1,
    };
    scope(() => {
      const results = [1, 2, 3].map((count) => {
        setThreads(count);
        return both({ ...some, seed: 5 })[0]
          .to({ dtype: "float32" })
          .toFloat32Array();
      });
      setThreads(before);
      expect(results[1]).toEqual(results[0]);
      expect(results[2]).toEqual(results[0]);
    });
  });
});
