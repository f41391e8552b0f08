import { describe, expect, it } from "vitest";
import { randomTensor, relativeDifference } from "../../tests/helpers/randomModel.ts";
import { fromArray } from "../torch/create.ts";
import { grad, scope, type Tensor, withGrad } from "../torch/tensor.ts";
import { denseMatrix } from "./frozen/frozen.ts";
import { headLoss_, labelsOf } from "./loss.ts";

const EPS = 1e-5;

/** Computes losses and gradient by autograd, with all logits at once. */
function plain(
  hidden: Tensor,
  targets: Int32Array,
  weight: Tensor,
  head: Tensor,
): { losses: Tensor; gradient: Tensor } {
  const { rows, targets: wanted } = labelsOf(targets);
  return withGrad(() => {
    const leaf = hidden.detach().requiresGrad_();
    const x = leaf.mul(leaf.square().meanDim([-1], { keepdim: true }).add(EPS).rsqrt()).mul(weight);
    const logits = x.indexSelect(0, fromArray(rows, [rows.length], { dtype: "int64" })).mm(head.t());
    const losses = logits
      .logSoftmax(-1)
      .gather(1, fromArray(wanted, [wanted.length, 1], { dtype: "int64" }))
      .neg()
      .squeeze(1);
    return { losses: losses.detach(), gradient: grad([losses.sum()], [leaf])[0]! };
  });
}

describe("headLoss_", () => {
  const cases = [
    { name: "one label", targets: [-100, 5, -100, -100], chunkTokens: 8 },
    {
      name: "labels over several chunks, the last one shorter",
      targets: [3, -100, 5, 0, 9, -100, 11, 12],
      chunkTokens: 4,
    },
    { name: "a label in every row", targets: [3, 4, 5], chunkTokens: 1 },
  ];
  it.each(cases)("equals autograd over full logits: $name", ({ targets, chunkTokens }) => {
    scope(() => {
      const hidden = randomTensor([targets.length, 24], 1, { scale: 2 });
      const weight = randomTensor([24], 2, { scale: 0.1 }).add_(1);
      const head = randomTensor([13, 24], 3);
      const wanted = Int32Array.from(targets);
      const expected = plain(hidden, wanted, weight, head);
      const labels = labelsOf(wanted);
      const rows = fromArray(labels.rows, [labels.rows.length], { dtype: "int64" });
      const states = hidden.indexSelect(0, rows);
      const losses = headLoss_(
        states,
        labels.targets,
        { norm: { weight, eps: EPS }, head: denseMatrix(head), chunkTokens },
        0.25,
      );
      expect(relativeDifference(losses, expected.losses)).toBeLessThan(1e-12);
      const gradient = expected.gradient.mul(0.25);
      expect(relativeDifference(states, gradient.indexSelect(0, rows))).toBeLessThan(1e-9);
    });
  });

  it("gives the same losses without a gradient", () => {
    scope(() => {
      const hidden = randomTensor([6, 24], 1);
      const options = {
        norm: { weight: randomTensor([24], 2), eps: EPS },
        head: denseMatrix(randomTensor([13, 24], 3)),
        chunkTokens: 4,
      };
      const targets = Int32Array.from([1, 2, 3, 4, 5, 12]);
      const without = headLoss_(hidden, targets, options);
      const beside = headLoss_(hidden, targets, options, 1);
      expect([...(without.toArray() as Float64Array)]).toEqual([...(beside.toArray() as Float64Array)]);
    });
  });
});
