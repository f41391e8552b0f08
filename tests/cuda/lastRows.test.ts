/**
 * Compares attention of the last rows alone with attention of all rows, for every kernel that supports it: on
 * a card if there is one, and on the CPU.
 */

import { describe, expect, test } from "vitest";
import { headsOfPacked } from "../../src/nn/attention/calls.ts";
import type { CardKernel } from "../../src/nn/attention/cardKernels.ts";
import {
  type AttentionShape,
  kernelBackward_,
  kernelForward,
  kernelsOf,
  packedLengths,
  takesLastRows,
} from "../../src/nn/attention/kernels.ts";
import { randn } from "../../src/torch/create.ts";
import { cardInfo, cudaProblem } from "../../src/torch/device.ts";
import type { Device, DType } from "../../src/torch/dtypes.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { relativeDifference } from "../helpers/randomModel.ts";

const card = "cuda:0";
const problem = cudaProblem();
if (problem) console.warn(`SKIPPED: attention of the last rows is not tried on a card. ${problem}`);

const [G, Q, D] = [2, 4, 128] as const;
const CASES = [
  { lengths: [1000], firstQuery: 640 },
  { lengths: [1000], firstQuery: 999 },
  { lengths: [513, 1, 262], firstQuery: 300 },
];

/**
 * Returns outputs and gradients of the heads, computed twice: with queries only from `firstQuery` on, and
 * with all rows where the earlier rows' gradients are zero.
 */
function bothWays(
  target: { device: Device; dtype: DType },
  kernel: CardKernel,
  { lengths, firstQuery }: (typeof CASES)[number],
): { last: Tensor[]; all: Tensor[] } {
  let end = 0;
  const samples = lengths.map((length) => {
    end += length;
    return { start: end - length, end };
  });
  const packed = randn([end, G, Q + 2, D]).to(target);
  const dOut = randn([end, G, Q, D]).to(target);
  dOut.narrow(0, 0, firstQuery).zero_();
  const after = (x: Tensor): Tensor => x.narrow(0, firstQuery, end - firstQuery);
  const through = (first: number): Tensor[] => {
    const base: AttentionShape = { Q, D, samples, kernel, firstQuery: first };
    const shape = { ...base, lengths: packedLengths(base, target) };
    const whole = headsOfPacked(packed.clone());
    const heads = first === 0 ? whole : { ...whole, query: after(whole.query).contiguous() };
    const state = kernelForward(heads, shape);
    const out = state.out.clone();
    kernelBackward_(heads, first === 0 ? dOut : after(dOut).contiguous(), state, shape);
    return [out, heads.query, heads.key, heads.value];
  };
  const [out, query, key, value] = through(0) as [Tensor, Tensor, Tensor, Tensor];
  return { last: through(firstQuery), all: [after(out), after(query), key, value] };
}

function compare(target: { device: Device; dtype: DType }, kernel: CardKernel, bound: number): void {
  for (const given of CASES) {
    scope(() => {
      const { last, all } = bothWays(target, kernel, given);
      last.forEach((x, index) => {
        const wide = (of: Tensor): Tensor => of.to({ dtype: "float64", device: "cpu" });
        expect(relativeDifference(wide(x), wide(all[index]!)), `${kernel} ${index}`).toBeLessThan(bound);
      });
    });
  }
}

test.each([
  ["float64", 1e-12],
  ["float32", 1e-5],
  ["bfloat16", 0.02],
] as const)("on the CPU the last rows alone have their attention, in %s", (dtype, bound) => {
  compare({ device: "cpu", dtype }, "products", bound);
});

describe.skipIf(problem)("on a card", () => {
  const target = { device: card, dtype: "float16" } as const;
  const kernels = problem ? [] : kernelsOf(cardInfo(card).capability, target.dtype);

  test.each(kernels.filter((kernel) => takesLastRows(target, kernel)))(
    "the last rows alone have their attention by %s",
    (kernel) => compare(target, kernel, 0.03),
  );
});
