import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { randomTensor } from "../../../tests/helpers/randomModel.ts";
import { fromArray } from "../../torch/create.ts";
import { dispose, keep, scope } from "../../torch/tensor.ts";
import { type AdamW, createAdamW, disposeAdamW, stepAdamW } from "./optimizer.ts";
import { momentTensors } from "./savedState.ts";
import { clippedScale, type GradientScale } from "./updateGate.ts";
import type { Parameter } from "./updateTile.ts";

const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
/** The second one has moments in 8 bits where they may be. */
const SHAPES = [
  [3, 5],
  [40, 300],
];
const CASES = (["fp32", "8bit"] as const).flatMap((precision) =>
  (["device", "host"] as const).flatMap((place) =>
    (["float32", "bfloat16"] as const).map((gradients) => ({ precision, place, gradients })),
  ),
);

describe("an update", () => {
  it.each(CASES)(
    "changes no byte where its scale is NaN, whatever the gradients: $precision, $place, $gradients",
    ({ precision, place, gradients }) => {
      for (const number of [Number.NaN, Number.POSITIVE_INFINITY, 1e30, 1]) {
        const optimizer = optimizerWith(gradients, { precision, place });
        step(optimizer, 0.5);
        const before = bytesOf(optimizer);
        for (const { gradient } of optimizer.parameters) scope(() => void gradient.fill_(number));
        scope(() => stepAdamW(optimizer, 1e-2, fromArray([Number.NaN], [1]).squeeze(0)));
        expect(bytesOf(optimizer), `gradients of ${number}`).toEqual(before);
        for (const { gradient } of optimizer.parameters)
          expect(new Set(gradient.toFloat32Array())).toEqual(new Set([0]));
        step(optimizer, 0.5);
        expect(bytesOf(optimizer)).not.toEqual(before);
        dispose(optimizer.parameters);
        disposeAdamW(optimizer);
      }
    },
  );

  it.each(CASES)(
    "is the same with a scale on the device as with a number: $precision, $place, $gradients",
    ({ precision, place, gradients }) => {
      const [one, other] = [0, 1].map(() => optimizerWith(gradients, { precision, place })) as [AdamW, AdamW];
      step(one, 0.3);
      scope(() => step(other, fromArray([0.3], [1], { dtype: "float64" }).squeeze(0)));
      expect(bytesOf(one)).toEqual(bytesOf(other));
      for (const optimizer of [one, other]) {
        dispose(optimizer.parameters);
        disposeAdamW(optimizer);
      }
    },
  );
});

describe("the scale of clipped gradients", () => {
  const scaleOf = (norm: number, maxNorm: number, scaledBy: number): number =>
    scope(() => clippedScale(fromArray([norm], [1]).squeeze(0), maxNorm, scaledBy).item());

  it("is to the bit what torch's clip_grad_norm_ comes to, over what gradients are too long by", () => {
    const number = fc.float({ min: Math.fround(1e-6), max: Math.fround(1e6), noNaN: true });
    fc.assert(
      fc.property(number, fc.oneof(fc.constant(0), number), number, (norm, maxNorm, scaledBy) => {
        const clip = maxNorm === 0 ? 1 : Math.min(1, maxNorm / (norm / scaledBy + 1e-6));
        expect(scaleOf(norm, maxNorm, scaledBy)).toBe(clip / scaledBy);
      }),
    );
  });

  it.each([0, 1])("is NaN where the norm is not finite, with a limit of %d", (maxNorm) => {
    expect(scaleOf(Number.NaN, maxNorm, 2)).toBeNaN();
    expect(scaleOf(Number.POSITIVE_INFINITY, maxNorm, 2)).toBeNaN();
  });
});

function optimizerWith(
  gradients: "float32" | "bfloat16",
  how: { precision: "fp32" | "8bit"; place: "device" | "host" },
): AdamW {
  const parameters = scope(() =>
    SHAPES.map((shape, index): Parameter => {
      const value = randomTensor(shape, index, { dtype: "float32" });
      const gradient = randomTensor(shape, 0, { dtype: gradients });
      return keep({ name: `p${index}`, value, copy: value.to({ dtype: "bfloat16" }), gradient });
    }),
  );
  return createAdamW(parameters, adam, { ...how, tileElements: 2048 });
}

/** One step with random gradients. */
function step(optimizer: AdamW, scale: GradientScale): void {
  optimizer.parameters.forEach(({ gradient }, index) => {
    scope(() => gradient.copy_(randomTensor(SHAPES[index]!, 7 + index, { dtype: gradient.dtype })));
  });
  stepAdamW(optimizer, 1e-2, scale);
}

/** All that an update changes, but for the gradients. */
function bytesOf(optimizer: AdamW): string[] {
  const factors = optimizer.parameters.flatMap(({ value, copy }) => [value, copy!]);
  const moments = momentTensors(optimizer).map(([, tensor]) => tensor);
  return [...factors, ...moments].map((x) => Buffer.from(x.toBytes()).toString("base64"));
}
