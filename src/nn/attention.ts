/**
 * Causal attention of packed samples for a group of kv heads, from the group's slice of wqkv's output to its attention output, and
 * back: rotary positions, and the kernel of the device that computes.
 */
import { fromArray } from "../torch/create.ts";
import type { Device } from "../torch/dtypes.ts";
import { isFused } from "../torch/fusedKernel.ts";
import { fused, type RopeInputs } from "../torch/kernels.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { type AttentionShape, type KernelState, kernelBackward_, kernelForward } from "./attentionKernels.ts";

/** cos and sin of each position and frequency: (T, 1, 1, D/2) in the compute dtype. */
export interface Rope {
  cos: Tensor;
  sin: Tensor;
}

/** What the backward needs: the group's rotated (T, G, Q+2, D), and what the kernel left. */
export interface AttentionState {
  rotated: Tensor;
  kernel: KernelState;
}

/** Rotary tables for positions, computed in float32. positions: (T) -> cos, sin: (T, 1, 1, D/2). Source: arXiv:2104.09864. */
export function ropeTables(
  positions: Int32Array,
  D: number,
  theta: number,
  target: Pick<Tensor, "dtype"> & { device: Device },
): Rope {
  return scope(() => {
    const { dtype, device } = target;
    const inverse = Float32Array.from({ length: D / 2 }, (_, pair) => 1 / theta ** ((2 * pair) / D));
    const position = fromArray(new Float32Array(positions), [positions.length, 1, 1, 1], { device });
    const angle = position.mul(fromArray(inverse, [D / 2], { device })); // (T, 1, 1, D/2)
    return { cos: angle.cos().to({ dtype }), sin: angle.sin().to({ dtype }) };
  });
}

/** Rotates the pairs (i, i + D/2) of the last dim in place, by -angle where `inverse`. x: (T, G, heads, D). */
export function rotate_(x: Tensor, { cos, sin }: Rope, inverse = false): void {
  scope(() => {
    const half = x.shape[3]! / 2;
    const first = x.narrow(3, 0, half);
    const second = x.narrow(3, half, half);
    const crossed = first.mul(sin); // (T, G, heads, D/2)
    const alpha = inverse ? -1 : 1;
    first.mul_(cos).sub_(second.mul(sin), { alpha });
    second.mul_(cos).add_(crossed, { alpha });
  });
}

/** Rotates queries and keys of packed heads, and leaves their values. packed: (T, G, Q+2, D). */
function rotateHeads_(packed: Tensor, rope: Rope, inverse = false): void {
  const Q = packed.shape[2]! - 2;
  if (!isFused(packed)) {
    scope(() => rotate_(packed.narrow(2, 0, Q + 1), rope, inverse));
    return;
  }
  scope(() => {
    const heads = [packed.narrow(2, 0, Q), packed.select(2, Q), packed.select(2, Q + 1)] as const;
    const inputs: RopeInputs = [packed, rope.cos, rope.sin, ...heads];
    if (inverse) fused.ropePack(inputs);
    else fused.ropeUnpack(inputs);
  });
}

/**
 * Attention of a group. u: (T, G * (Q+2) * D), the packed output of wqkv: for each kv head its Q query heads, its key, its value;
 * rotated in place -> (T, G * Q * D), and the state for attendBackward.
 */
export function attend(u: Tensor, rope: Rope, shape: AttentionShape): { out: Tensor; state: AttentionState } {
  const { Q, D } = shape;
  const T = u.shape[0]!;
  const rotated = u.view([T, -1, Q + 2, D]); // (T, G, Q+2, D)
  rotateHeads_(rotated, rope);
  const kernel = kernelForward(rotated, shape);
  return { out: kernel.out.reshape([T, -1]), state: { rotated, kernel } };
}

/**
 * Gradient of u, (T, G * (Q+2) * D), for the gradient dOut of attend's output, (T, G * Q * D). It takes the place of the state's rotated
 * heads, which are gone.
 */
export function attendBackward_(
  dOut: Tensor,
  { rotated, kernel }: AttentionState,
  rope: Rope,
  shape: AttentionShape,
): Tensor {
  const { Q, D } = shape;
  const T = dOut.shape[0]!;
  kernelBackward_(rotated, dOut.view([T, -1, Q, D]), kernel, shape);
  rotateHeads_(rotated, rope, true);
  return rotated.view([T, -1]);
}
