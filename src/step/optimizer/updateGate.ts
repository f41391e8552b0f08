/**
 * Whether a step's update happens depends on numbers that the device may still be computing, and the host
 * does not wait for them. So the device decides: a scale of gradients that is not finite closes the gate, and
 * an update behind a closed gate changes nothing.
 */
import { full } from "../../torch/create.ts";
import { scope, Tensor } from "../../torch/tensor.ts";

/** Factor of the gradients. As a tensor, (), it is known on the device alone; NaN if nothing may change. */
export type GradientScale = number | Tensor;

/** On the gradients' device. */
export interface Gate {
  /** (), bool: whether the update happens. */
  isOpen: Tensor;
  /** (), of the factors' dtype. */
  scale: Tensor;
}

/** Number that torch's clip_grad_norm_ adds to the norm. */
const CLIP_EPSILON = 1e-6;

/**
 * Returns the factor that removes the loss scale `scaledBy` and clips the gradient norm, (), to maxNorm (0:
 * no limit). Computed in float64, so that it equals the host's result to the bit; NaN if the norm is not
 * finite.
 */
export function clippedScale(norm: Tensor, maxNorm: number, scaledBy: number): Tensor {
  return scope(() => {
    const wide = norm.to({ dtype: "float64" });
    const number = (value: number): Tensor => full([], value, { dtype: "float64", device: norm.device });
    const clip =
      maxNorm === 0
        ? number(1)
        : number(maxNorm)
            .div(wide.div(number(scaledBy)).add(CLIP_EPSILON))
            .clampMax_(1);
    return clip.div(number(scaledBy)).add(wide.mul(0)); // 0, or NaN
  });
}

/** like: a factor on the gradients' device, or any tensor of its kind. */
export function gateOf(
  gradientScale: GradientScale,
  { dtype, device }: Pick<Tensor, "dtype" | "device">,
): Gate {
  return scope(() => {
    const isTensor = gradientScale instanceof Tensor;
    const scale = isTensor ? gradientScale.to({ dtype }) : full([], gradientScale, { dtype, device });
    return { isOpen: scale.isfinite(), scale };
  });
}
