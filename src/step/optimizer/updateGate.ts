/**
 * Whether a step's update happens hangs on numbers that the device may still be computing, and that the host does not wait for. So the
 * device decides: a scale of gradients that is not finite closes the gate, and an update behind a closed gate changes nothing.
 */
import { full } from "../../torch/create.ts";
import { scope, Tensor } from "../../torch/tensor.ts";

/** What gradients are multiplied with; a tensor, (), is known on the device alone, and NaN where nothing may change. */
export type GradientScale = number | Tensor;

/** On the gradients' device. */
export interface Gate {
  /** (), bool: whether the update happens. */
  isOpen: Tensor;
  /** (), of the factors' dtype. */
  scale: Tensor;
}

/** What torch's clip_grad_norm_ adds to the norm. */
const CLIP_EPSILON = 1e-6;

/**
 * What gradients of this norm, (), are multiplied with that are `scaledBy` times too long, to be no longer than maxNorm; 0 stands for no
 * limit. In float64, so that it is to the bit what the host would come to; NaN where the norm is not finite.
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
