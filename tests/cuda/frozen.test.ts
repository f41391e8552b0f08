/**
 * Compares products with quantised matrices on a card with the CPU's: fused, with a scratch copy, and in fp8
 * itself. Reported as skipped if there is no card.
 */
import { describe, expect, test } from "vitest";
import {
  addFrozenGradient_,
  addFrozenProduct_,
  denseMatrix,
  type FrozenMatrix,
  frozenColumns,
  frozenGradient,
  frozenProduct,
  frozenRows,
  frozenValues,
} from "../../src/nn/frozen/frozen.ts";
import { quantize } from "../../src/nn/frozen/quantized.ts";
import { randn } from "../../src/torch/create.ts";
import { CARD_ABILITIES, cardInfo, cudaProblem } from "../../src/torch/device.ts";
import { manualSeed } from "../../src/torch/random.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { difference } from "./kernelCases.ts";

const card = "cuda:0";
const problem = cudaProblem();
if (problem) console.warn(`SKIPPED: no quantised product is made on a card. ${problem}`);

/** Relative errors. fp8 also rounds the activations, to four bits. */
const TOLERANCES = { int8: 0.01, nf4: 0.01, fp8: 0.05 } as const;

describe.skipIf(problem)("on a card", () => {
  const windows: [string, (matrix: FrozenMatrix) => FrozenMatrix][] = [
    ["all of it", (matrix) => matrix],
    ["some rows", (matrix) => frozenRows(matrix, { start: 16, end: 304 })],
    ["some columns", (matrix) => frozenColumns(matrix, { start: 64, end: 192 })],
  ];
  const cases = (Object.keys(TOLERANCES) as (keyof typeof TOLERANCES)[]).flatMap((precision) =>
    windows.map(([name, window]) => ({ precision, name, window })),
  );

  test.each(cases)("$precision multiplies as on the CPU: $name", ({ precision, window }) => {
    const dtype = cardInfo(card).capability >= CARD_ABILITIES.bf16 ? "bfloat16" : "float16";
    for (const tokens of [1, 8, 9, 16, 17, 300]) {
      scope(() => {
        manualSeed(tokens);
        const source = randn([512, 256]);
        const matrix = window(quantize(source, precision, { device: card }));
        const values = frozenValues(window(quantize(source, precision, { device: "cpu" })));
        const [outs, ins] = values.shape as [number, number];
        const x = randn([tokens, ins]).to({ dtype });
        const dy = randn([tokens, outs]).to({ dtype });
        const exact = (y: Tensor, by: Tensor): Tensor => y.to({ dtype: "float32" }).mm(by);
        const close = (actual: Tensor, right: Tensor) =>
          expect(difference(actual.toFloat32Array(), right.toFloat32Array())).toBeLessThan(
            TOLERANCES[precision],
          );
        const [xThere, dyThere] = [x.to({ device: card }), dy.to({ device: card })];
        const y = frozenProduct(xThere, matrix);
        close(y, exact(x, values.t()));
        addFrozenProduct_(y, xThere, matrix);
        close(y, exact(x, values.t()).mul_(2));
        const dx = frozenGradient(dyThere, matrix);
        close(dx, exact(dy, values));
        addFrozenGradient_(dx, dyThere, matrix);
        close(dx, exact(dy, values).mul_(2));
      });
    }
  });

  test("a dense matrix does the same as a check of the check", () => {
    scope(() => {
      const [weight, x] = [randn([64, 32]), randn([5, 32])];
      const there = frozenProduct(x.to({ device: card }), denseMatrix(weight.to({ device: card })));
      expect(difference(there.toFloat32Array(), x.mm(weight.t()).toFloat32Array())).toBeLessThan(5e-3);
    });
  });
});
