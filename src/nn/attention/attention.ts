/**
 * Causal attention of packed samples for a group of kv heads, forward and backward. It goes from the group's
 * slice of wqkv's output to the attention output: norms of queries and keys if the model has them, rotary
 * positions, then the device's kernel.
 */
import { empty } from "../../torch/create.ts";
import { isFused } from "../../torch/kernels/fusedKernel.ts";
import { fused, type RopeInputs } from "../../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { rowsOf } from "../rows.ts";
import { headsOfPacked, type PackedHeads } from "./calls.ts";
import {
  type HeadNorms,
  type NormedHeads,
  normalizeHeads_,
  normedOfPacked,
  normGradients_,
} from "./headNorms.ts";
import { type AttentionShape, type KernelState, kernelBackward_, kernelForward } from "./kernels.ts";
import type { Rope } from "./rope.ts";

/**
 * Output of wqkv for a group of G kv heads, in one of two forms:
 * - All T rows have queries: (T, G * (Q+2) * D), each kv head with its Q query heads, its key and its value.
 * - Only the last R rows have queries: queries (R, G * Q * D), and keys and values (T, G * 2 * D).
 */
export type Projected = readonly [packed: Tensor] | readonly [query: Tensor, keyValue: Tensor];

/** Projected, viewed by head: (T, G, Q+2, D), or (R, G, Q, D) and (T, G, 2, D). */
type ByHead = Projected;

/** State for the backward pass: the rotated projection, and the kernel's own state. */
export interface AttentionState {
  rotated: ByHead;
  /** Queries and keys before their norms, if they have norms: (R, G, Q, D) and (T, G, 1, D), contiguous. */
  raw: readonly Tensor[];
  kernel: KernelState;
}

/** Rotates the pairs (i, i + D/2) of the last dim in place, by -angle if `inverse`. x: (T, G, heads, D). */
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

/**
 * Rotates queries and keys but not values. x: (T, G, heads, D): queries first, then possibly a key and a
 * value.
 */
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

/** Rotates the projection in place; rope: tables of all rows. */
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

/** Returns the heads of a projection that have norms, as views. */
function normedHeads([first, keyValue]: ByHead, norms: HeadNorms | undefined): NormedHeads[] {
  if (!norms) return [];
  if (!keyValue) return normedOfPacked(first, norms);
  return [
    { heads: first, norm: norms.query },
    { heads: keyValue.narrow(2, 0, 1), norm: norms.key },
  ];
}

/**
 * Computes the attention of a group. Normalises and rotates u in place -> (R, G * Q * D), and the state for
 * attendBackward_.
 */
export function attend(
  u: Projected,
  rope: Rope,
  shape: AttentionShape,
  norms?: HeadNorms,
): { out: Tensor; state: AttentionState } {
  const rotated = byHead(u, shape);
  const raw = normedHeads(rotated, norms).map((normed) => {
    const before = contiguousCopy(normed.heads);
    normalizeHeads_(normed);
    return before;
  });
  rotateProjected_(rotated, rope, shape);
  const kernel = kernelForward(packedHeads(rotated), shape);
  return { out: kernel.out.reshape([kernel.out.shape[0]!, -1]), state: { rotated, raw, kernel } };
}

function contiguousCopy(x: Tensor): Tensor {
  const { shape, dtype, device } = x;
  return empty(shape, { dtype, device }).copy_(x);
}

/**
 * Returns the gradient of u for the gradient dOut, (R, G * Q * D), of attend's output. It overwrites the
 * rotated heads in the state.
 */
export function attendBackward_(
  dOut: Tensor,
  { rotated, raw, kernel }: AttentionState,
  rope: Rope,
  shape: AttentionShape,
  norms?: HeadNorms,
): Projected {
  const { Q, D } = shape;
  kernelBackward_(packedHeads(rotated), dOut.view([dOut.shape[0]!, -1, Q, D]), kernel, shape);
  rotateProjected_(rotated, rope, shape, true);
  for (const [index, normed] of normedHeads(rotated, norms).entries()) normGradients_(normed, raw[index]!);
  const [first, keyValue] = rotated;
  const view = (x: Tensor): Tensor => x.view([x.shape[0]!, -1]);
  return keyValue ? [view(first), view(keyValue)] : [view(first)];
}
