import { describe, expect, it } from "vitest";
import { randomTensor, relativeDifference } from "../../tests/helpers/randomModel.ts";
import { grad, scope, withGrad } from "../torch/tensor.ts";
import { addRmsNormGradient_, rmsNorm } from "./norm.ts";

describe("rmsNorm", () => {
  it.each([1, 7, 256, 700])("of %i rows and its gradient equal autograd's", (rows) => {
    scope(() => {
      const x = randomTensor([rows, 40], 1, { scale: 3 });
      const dy = randomTensor([rows, 40], 2);
      const weight = randomTensor([40], 3, { scale: 0.2 }).add_(1);
      const { y, dx } = withGrad(() => {
        const leaf = x.detach().requiresGrad_();
        const out = leaf.mul(leaf.square().meanDim([-1], { keepdim: true }).add(1e-5).rsqrt()).mul(weight);
        return { y: out.detach(), dx: grad([out], [leaf], [dy])[0]! };
      });
      expect(relativeDifference(rmsNorm(x, { weight, eps: 1e-5 }), y)).toBeLessThan(1e-14);
      const into = x.zerosLike();
      addRmsNormGradient_(into, dy, x, { weight, eps: 1e-5 });
      expect(relativeDifference(into, dx)).toBeLessThan(1e-12);
    });
  });

  it("adds to what is there", () => {
    scope(() => {
      const x = randomTensor([3, 8], 1);
      const norm = { weight: randomTensor([8], 3), eps: 1e-5 };
      const once = x.zerosLike();
      addRmsNormGradient_(once, x, x, norm);
      const twice = once.clone();
      addRmsNormGradient_(twice, x, x, norm);
      expect(relativeDifference(twice, once.mul(2))).toBeLessThan(1e-14);
    });
  });
});
