/**
 * The MLP's activation silu(gate) * up and its gradients: in one pass, and in the memory of its inputs, if
 * our own kernels run on the device.
 */
import { isFused } from "../torch/kernels/fusedKernel.ts";
import { fused } from "../torch/kernels/kernels.ts";
import { siluBackward } from "../torch/ops.gen.ts";
import type { Tensor } from "../torch/tensor.ts";

/** Outputs of w1 and w3, (t, F) each. */
export interface Gates {
  gate: Tensor;
  up: Tensor;
}

/** Returns silu(gate) * up, (t, F); overwrites the gate unless `keeps`. */
export function activated({ gate, up }: Gates, keeps: boolean): Tensor {
  if (!isFused(gate)) return (keeps ? gate.silu() : gate.silu_()).mul_(up);
  const out = keeps ? gate.emptyLike() : gate;
  fused.swiglu([out, gate, up]);
  return out;
}

/**
 * Returns the gradients of gate and up for the gradient dActive of silu(gate) * up, all (t, F). Overwrites
 * inputs to save memory.
 */
export function activationGradients_(dActive: Tensor, { gate, up }: Gates): { dGate: Tensor; dUp: Tensor } {
  if (isFused(gate)) {
    fused.swigluBackward([dActive, gate, up]);
    return { dGate: gate, dUp: up };
  }
  const dUp = dActive.mul(gate.silu());
  return { dGate: siluBackward(dActive.mul_(up), gate), dUp };
}
