import { expect, it } from "vitest";
import { fp8Gradient_, fp8Product_, multipliesFp8 } from "../../src/nn/frozen/fp8.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import { type ChannelMatrix, quantize, quantizedRows } from "../../src/nn/frozen/quantized.ts";
import { empty, zeros } from "../../src/torch/create.ts";
import { planningFor } from "../../src/torch/device.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { randomTensor } from "../helpers/randomModel.ts";

/**
 * Rows of activations. No tile cuts them, and only tests multiply fp8 on a CPU. If the processor has AMX,
 * libtorch uses oneDNN, whose reference kernel computes 10 million products a second.
 */
const ROWS = 20;

/**
 * Whether libtorch multiplies fp8 on this CPU. With AMX it uses oneDNN, which refuses if ONEDNN_MAX_CPU_ISA
 * disables AMX.
 */
const MULTIPLIES = scope(() => {
  const like = { dtype: "float32" } as const;
  const matrix = quantize(randomTensor([32, 48], 1, like), "fp8", { device: "cpu" }) as ChannelMatrix;
  try {
    fp8Product_(zeros([ROWS, 32]), randomTensor([ROWS, 48], 2, like), matrix, 0);
    return true;
  } catch {
    return false;
  }
});

/** Whole and cut matrices, with more rows and columns than a tile. */
it.skipIf(!MULTIPLIES).each([
  [32, 48],
  [1040, 2064],
  [2064, 1040],
])("products in fp8 are near those with the values: %d x %d", (outs, ins) => {
  scope(() => {
    const source = randomTensor([outs, ins], 1, { dtype: "float32", scale: 0.02 });
    const matrix = quantizedRows(quantize(source, "fp8", { device: "cpu" }), {
      start: 16,
      end: outs,
    }) as ChannelMatrix;
    const values = frozenValues(matrix); // (out, in)
    const rows = (features: number, seed: number): Tensor =>
      randomTensor([ROWS, features], seed, { dtype: "float32" });
    const [x, dy] = [rows(ins, 2), rows(outs - 16, 3)];
    x.select(0, 5).zero_();
    dy.select(0, ROWS - 1).mul_(1000); // rows have their own scales
    const [y, dx] = [x.mm(values.t()), dy.mm(values)];
    const [into, dInto] = [rows(outs - 16, 4), rows(ins, 5)];
    for (const beta of [0, 1] as const) {
      const [sum, dSum] = [into.mul(beta).add(y), dInto.mul(beta).add(dx)];
      fp8Product_(into, x, matrix, beta);
      fp8Gradient_(dInto, dy, matrix, beta);
      expect(error(into, sum)).toBeLessThan(0.03); // measured at most 0.0271: the error of e4m3 for normal numbers
      expect(error(dInto, dSum)).toBeLessThan(0.03);
      expect(error(into.narrow(0, 5, 1), sum.narrow(0, 5, 1))).toBe(0);
    }
  });
});

it("is taken on cards that have it, for sizes that they take, and in a plan for one, and never on a CPU", () => {
  scope(() => {
    const fp8 = (outs: number): ChannelMatrix =>
      quantize(empty([outs, 64], { device: "meta" }), "fp8", { device: "meta" }) as ChannelMatrix;
    const x = empty([5, 64], { dtype: "bfloat16", device: "meta" });
    const on = (computeCapability: number): boolean =>
      planningFor({ device: "cuda", computeCapability }, () => multipliesFp8(fp8(48), x));
    expect([8, 8.6, 8.9, 9, 12].map(on)).toEqual([false, false, true, true, true]);
    expect(planningFor({ device: "cuda", computeCapability: 9 }, () => multipliesFp8(fp8(40), x))).toBe(
      false,
    );
    expect(multipliesFp8(fp8(48), x)).toBe(false);
    const onCpu = { dtype: "bfloat16", device: "cpu" } as const;
    const matrix = quantize(zeros([48, 64], onCpu), "fp8", { device: "cpu" }) as ChannelMatrix;
    expect(multipliesFp8(matrix, zeros([5, 64], onCpu))).toBe(false);
  });
});

function error(found: Tensor, expected: Tensor): number {
  return scope(() => {
    const size = expected.square().sum().item();
    const off = found.sub(expected).square().sum().item();
    return off === 0 ? 0 : Math.sqrt(off / size);
  });
}
