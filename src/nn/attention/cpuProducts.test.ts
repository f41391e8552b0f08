import { describe, expect, it } from "vitest";
import { randomTensor } from "../../../tests/helpers/randomModel.ts";
import {
  _scaledDotProductFlashAttentionForCpu as flash,
  _scaledDotProductFlashAttentionForCpuBackward as flashBackward,
} from "../../torch/ops.gen.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { causalProducts, causalProductsBackward } from "./cpuProducts.ts";

/** Returns |a - b| / |b|, as norms over all elements. */
function distance(a: Tensor, b: Tensor): number {
  const wide = (x: Tensor): Tensor => x.to({ dtype: "float64" });
  return wide(a).sub(wide(b)).linalgVectorNorm().item() / wide(b).linalgVectorNorm().item();
}

describe("attention by products", () => {
  it.each([
    { G: 2, Q: 4, t: 1, D: 16, dtype: "float64", within: 1e-6 },
    { G: 1, Q: 1, t: 127, D: 8, dtype: "float64", within: 1e-6 },
    { G: 2, Q: 3, t: 301, D: 16, dtype: "float64", within: 1e-6 },
    { G: 2, Q: 4, t: 300, D: 64, dtype: "bfloat16", within: 1e-2 },
  ] as const)("equals the flash kernel and its gradients: %o", ({ G, Q, t, D, dtype, within }) => {
    scope(() => {
      const packed = randomTensor([t, G, Q + 2, D], 1, { dtype });
      const cut = (start: number, count: number): Tensor =>
        packed.permute([1, 2, 0, 3]).narrow(1, start, count);
      const [query, key, value] = [cut(0, Q), cut(Q, 1), cut(Q + 1, 1)];
      const dOut = randomTensor([t, G, Q, D], 2, { dtype }).permute([1, 2, 0, 3]);
      const wide = (x: Tensor): Tensor => x.to({ dtype: "float64" });
      const [q, k, v, d] = [query, key.expand(query.shape), value.expand(query.shape), dOut].map(wide) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      const [out, logsumexp] = flash(q, k, v, { isCausal: true });
      const [dQuery, dKey, dValue] = flashBackward(d, q, k, v, out, logsumexp, 0, true);
      expect(distance(causalProducts({ query, key, value }), out)).toBeLessThan(within);
      const [ofQuery, ofKey, ofValue] = causalProductsBackward(dOut, { query, key, value });
      // with one row all weights are 1, so the gradient of scores is zero and has no relative error
      if (t > 1) expect(distance(ofQuery!, dQuery)).toBeLessThan(within);
      if (t > 1) expect(distance(ofKey!, dKey.sumDim([1], { keepdim: true }))).toBeLessThan(within);
      expect(distance(ofValue!, dValue.sumDim([1], { keepdim: true }))).toBeLessThan(within);
    });
  });

  it.each([
    { t: 301, queries: 1, dtype: "float64", within: 1e-12 },
    { t: 301, queries: 170, dtype: "float64", within: 1e-12 },
    { t: 400, queries: 150, dtype: "float32", within: 1e-6 },
    { t: 400, queries: 150, dtype: "bfloat16", within: 1e-2 },
  ] as const)("of the last rows alone equals theirs of all: %o", ({ t, queries, dtype, within }) => {
    scope(() => {
      const [G, Q, D] = [2, 3, 16];
      const packed = randomTensor([t, G, Q + 2, D], 1, { dtype });
      const cut = (start: number, count: number): Tensor =>
        packed.permute([1, 2, 0, 3]).narrow(1, start, count);
      const [query, key, value] = [cut(0, Q), cut(Q, 1), cut(Q + 1, 1)];
      const dOut = randomTensor([t, G, Q, D], 2, { dtype }).permute([1, 2, 0, 3]);
      dOut.narrow(2, 0, t - queries).zero_();
      const last = (x: Tensor): Tensor => x.narrow(2, t - queries, queries);
      const heads = { query: last(query), key, value };
      expect(distance(causalProducts(heads), last(causalProducts({ query, key, value })))).toBeLessThan(
        within,
      );
      const [dQuery, ...others] = causalProductsBackward(dOut, { query, key, value });
      const [ofQuery, ...ofOthers] = causalProductsBackward(last(dOut), heads);
      expect(distance(ofQuery!, last(dQuery!))).toBeLessThan(within);
      others.forEach((wanted, index) => {
        expect(distance(ofOthers[index]!, wanted)).toBeLessThan(within);
      });
    });
  });
});
