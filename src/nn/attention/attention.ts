/**
 * Causal attention of packed samples for a group of kv heads, from the group's slice of wqkv's output to its attention output, and
 * back: rotary positions, and the kernel of the device that computes.
 */
import { isFused } from "../../torch/kernels/fusedKernel.ts";
import { fused, type RopeInputs } from "../../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { rowsOf } from "../rows.ts";
import { headsOfPacked, type PackedHeads } from "./calls.ts";
import { type AttentionShape, type KernelState, kernelBackward_, kernelForward } from "./kernels.ts";
import type { Rope } from "./rope.ts";

/**
 * Output of wqkv for a group: for each kv head its Q query heads, its key, its value, (T, G * (Q+2) * D). If only the
 * last R rows have queries: the queries, (R, G * Q * D), and apart from them keys and values, (T, G * 2 * D).
 */
export type Projected = readonly [packed: Tensor] | readonly [query: Tensor, keyValue: Tensor];

/** Projected, by head: (T, G, Q+2, D), or (R, G, Q, D) and (T, G, 2, D). */
type ByHead = Projected;

/** Values for the backward pass: the rotated projection, and the kernel's state. */
export interface AttentionState {
  rotated: ByHead;
  kernel: KernelState;
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

/** Rotates queries and keys, and leaves values. x: (T, G, heads, D), of which the first are queries, then there may be a key and a value. */
function rotateHeads_(x: Tensor, queries: number, rope: Rope, inverse: boolean): void {
  const hasKey = x.shape[2]! > queries;
  scope(() => {
    if (!isFused(x)) {
      rotate_(x.narrow(2, 0, hasKey ? queries + 1 : queries), rope, inverse);
      return;
    }
    const one = (head: number): Tensor => (hasKey ? x.select(2, head) : x.narrow(1, 0, 0).select(2, 0));
    const heads = [x.narrow(2, 0, queries), one(queries), one(queries + 1)] as const;
    const inputs: RopeInputs = [x, rope.cos, rope.sin, ...heads];
    if (inverse) fused.ropePack(inputs);
    else fused.ropeUnpack(inputs);
  });
}

/** Rotates what is projected, in place; rope: of all rows. */
function rotateProjected_(
  [first, keyValue]: ByHead,
  rope: Rope,
  shape: AttentionShape,
  inverse = false,
): void {
  const { Q, firstQuery = 0 } = shape;
  if (!keyValue) {
    rotateHeads_(first, Q, rope, inverse);
    return;
  }
  const rows = { start: firstQuery, end: keyValue.shape[0]! };
  rotateHeads_(first, Q, { cos: rowsOf(rope.cos, rows), sin: rowsOf(rope.sin, rows) }, inverse);
  rotateHeads_(keyValue, 0, rope, inverse);
}

function byHead([first, keyValue]: Projected, { Q, D }: AttentionShape): ByHead {
  const view = (x: Tensor, heads: number): Tensor => x.view([x.shape[0]!, -1, heads, D]);
  return keyValue ? [view(first, Q), view(keyValue, 2)] : [view(first, Q + 2)];
}

function packedHeads([first, keyValue]: ByHead): PackedHeads {
  if (!keyValue) return headsOfPacked(first);
  return { query: first, key: keyValue.narrow(2, 0, 1), value: keyValue.narrow(2, 1, 1) };
}

/** Attention of a group. u is rotated in place -> (R, G * Q * D), and the state for attendBackward. */
export function attend(
  u: Projected,
  rope: Rope,
  shape: AttentionShape,
): { out: Tensor; state: AttentionState } {
  const rotated = byHead(u, shape);
  rotateProjected_(rotated, rope, shape);
  const kernel = kernelForward(packedHeads(rotated), shape);
  return { out: kernel.out.reshape([kernel.out.shape[0]!, -1]), state: { rotated, kernel } };
}

/** Gradient of u for the gradient dOut, (R, G * Q * D), of attend's output. It takes the place of the state's rotated heads, which are gone. */
export function attendBackward_(
  dOut: Tensor,
  { rotated, kernel }: AttentionState,
  rope: Rope,
  shape: AttentionShape,
): Projected {
  const { Q, D } = shape;
  kernelBackward_(packedHeads(rotated), dOut.view([dOut.shape[0]!, -1, Q, D]), kernel, shape);
  rotateProjected_(rotated, rope, shape, true);
  const [first, keyValue] = rotated;
  const view = (x: Tensor): Tensor => x.view([x.shape[0]!, -1]);
  return keyValue ? [view(first), view(keyValue)] : [view(first)];
}
