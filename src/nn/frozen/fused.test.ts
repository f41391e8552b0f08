import { describe, expect, test } from "vitest";
import { empty, randn } from "../../torch/create.ts";
import { memoryStats, type PlanTarget, planningFor, resetPeak } from "../../torch/device.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { traced } from "../../torch/trace.ts";
import { type FrozenMatrix, frozenColumns, frozenProduct, frozenRows } from "./frozen.ts";
import { FUSED_TOKENS, fusedProduct_, multipliesFused } from "./fused.ts";
import { emptyQuantized, type QuantizedMatrix, quantize } from "./quantized.ts";

const card: PlanTarget = { device: "cuda", computeCapability: 8 };
const metaRows = (tokens: number, ins: number): Tensor =>
  empty([tokens, ins], { dtype: "bfloat16", device: "meta" });

describe.each(["nf4", "int8"] as const)("%s", (precision) => {
  const most = FUSED_TOKENS[precision];

  test("few rows on a card are multiplied without a scratch, and a plan sees what is read", () => {
    scope(() => {
      const matrix = emptyQuantized([4096, 1024], precision, "meta");
      const peakOf = (tokens: number) =>
        planningFor(card, () =>
          scope(() => {
            const x = metaRows(tokens, 1024);
            resetPeak("meta");
            const before = memoryStats("meta").liveBytes;
            const { calls } = traced("meta", (take) => {
              frozenProduct(x, matrix);
              return take();
            });
            return {
              bytes: memoryStats("meta").peakBytes - before,
              read: calls()
                .find(({ op }) => op === `product_${precision}`)
                ?.inputs.at(-1)?.shape,
            };
          }),
        );
      expect(peakOf(most)).toEqual({
        bytes: most * 4096 * 2,
        read: precision === "nf4" ? [(4096 * 1024) / 2] : [4096, 1024],
      });
      expect(peakOf(most + 1)).toEqual({ bytes: (most + 1 + 1024) * 4096 * 2, read: undefined });
    });
  });

  test("the CPU, other dtypes and rows that lie apart go by the scratch", () => {
    scope(() => {
      const matrix = emptyQuantized([64, 64], precision, "meta");
      const takes = (x: Tensor) => multipliesFused(matrix, x);
      expect(takes(metaRows(1, 64))).toBe(false);
      planningFor(card, () => {
        expect(takes(metaRows(1, 64))).toBe(true);
        expect(takes(metaRows(1, 128).narrow(1, 32, 64))).toBe(true);
        expect(takes(metaRows(64, 8).t())).toBe(false);
        expect(takes(empty([1, 64], { dtype: "float64", device: "meta" }))).toBe(false);
      });
    });
  });

  test("windows on rows and columns give what the scratch gives, written or added", () => {
    scope(() => {
      const whole = quantize(randn([96, 192]), precision, { device: "cpu" });
      const windows: FrozenMatrix[] = [
        whole,
        frozenRows(whole, { start: 5, end: 71 }),
        frozenColumns(frozenRows(whole, { start: 3, end: 40 }), { start: 64, end: 128 }),
      ];
      for (const matrix of windows as QuantizedMatrix[]) {
        const [x, wide] = [randn([3, 192]), randn([3, 200])];
        const input = x.narrow(1, 0, matrix === windows[2] ? 64 : 192).contiguous();
        const right = frozenProduct(input, matrix);
        const into = wide.narrow(1, 7, right.shape[1]!); // rows apart
        const before = into.clone();
        fusedProduct_(into, input, matrix, 1);
        expect(into.sub(before).allclose(right, { atol: 1e-4 })).toBe(true);
        fusedProduct_(into, input, matrix, 0);
        expect(into.allclose(right, { atol: 1e-4 })).toBe(true);
      }
    });
  });
});

test("fp8 has no fused product", () => {
  scope(() => {
    const matrix = emptyQuantized([64, 64], "fp8", "meta");
    planningFor(card, () => expect(multipliesFused(matrix, metaRows(1, 64))).toBe(false));
  });
});
