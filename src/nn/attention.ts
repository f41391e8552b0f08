/**
 * Causal attention of packed samples for a group of kv heads, from the group's slice of wqkv's output to its attention output, and
 * back. The flash kernel is called by name, the one of the target device, so that a plan on meta makes the same allocations.
 */
import { cat, empty, fromArray } from "../torch/create.ts";
import type { Device } from "../torch/dtypes.ts";
import {
  _scaledDotProductFlashAttentionForCpu as flashForCpu,
  _scaledDotProductFlashAttentionForCpuBackward as flashForCpuBackward,
} from "../torch/ops.gen.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { type Rows, rowsOf } from "./rows.ts";

/** cos and sin of each position and frequency: (T, 1, 1, D/2) in the compute dtype. */
export interface Rope {
  cos: Tensor;
  sin: Tensor;
}

/** Q query heads a kv head, D features a head; samples: the rows of each packed sample. */
export interface AttentionShape {
  Q: number;
  D: number;
  samples: readonly Rows[];
}

/** What the backward needs: the group's rotated (T, G, Q+2, D), and for each sample output (G, Q, t, D) and logsumexp (G, Q, t). */
export interface AttentionState {
  rotated: Tensor;
  samples: { out: Tensor; logsumexp: Tensor }[];
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
    const position = fromArray(Float32Array.from(positions), [positions.length, 1, 1, 1], { device });
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

/**
 * Attention of a group. u: (T, G * (Q+2) * D), the packed output of wqkv: for each kv head its Q query heads, its key, its value;
 * rotated in place -> (T, G * Q * D), and the state for attendBackward.
 */
export function attend(u: Tensor, rope: Rope, shape: AttentionShape): { out: Tensor; state: AttentionState } {
  const { Q, D } = shape;
  const T = u.shape[0]!;
  const packed = u.view([T, -1, Q + 2, D]); // (T, G, Q+2, D)
  rotate_(packed.narrow(2, 0, Q + 1), rope);
  const samples = shape.samples.map((rows) => {
    const { query, key, value } = heads(packed, rows, Q);
    const [out, logsumexp] = flashForCpu(query, key, value, { isCausal: true });
    return { out, logsumexp };
  });
  const byRow = samples.map(({ out }) => out.permute([2, 0, 1, 3])); // (t, G, Q, D) each
  const all = byRow.length === 1 ? byRow[0]! : cat(byRow, 0);
  return { out: all.reshape([T, -1]), state: { rotated: packed, samples } };
}

/** Gradient of u, (T, G * (Q+2) * D), for the gradient dOut of attend's output, (T, G * Q * D). */
export function attendBackward(
  dOut: Tensor,
  state: AttentionState,
  rope: Rope,
  shape: AttentionShape,
): Tensor {
  return scope(() => {
    const { Q, D } = shape;
    const T = dOut.shape[0]!;
    const du = empty(state.rotated.shape, { dtype: dOut.dtype, device: dOut.device }); // (T, G, Q+2, D)
    shape.samples.forEach((rows, index) => {
      scope(() => {
        const { query, key, value } = heads(state.rotated, rows, Q);
        const { out, logsumexp } = state.samples[index]!;
        const dOutHeads = rowsOf(dOut.view([T, -1, Q, D]), rows).permute([1, 2, 0, 3]); // (G, Q, t, D)
        const [dQuery, dKey, dValue] = flashForCpuBackward(
          dOutHeads,
          query,
          key,
          value,
          out,
          logsumexp,
          0,
          true,
        );
        const duRows = rowsOf(du, rows).permute([1, 2, 0, 3]); // (G, Q+2, t, D)
        duRows.narrow(1, 0, Q).copy_(dQuery);
        duRows.select(1, Q).copy_(dKey.sumDim([1]));
        duRows.select(1, Q + 1).copy_(dValue.sumDim([1]));
      });
    });
    rotate_(du.narrow(2, 0, Q + 1), rope, true);
    return du.view([T, -1]);
  });
}

/** Views of a sample's rows as the kernel takes them: kv heads are its batch, (G, Q, t, D) each; key and value are not copied. */
function heads(packed: Tensor, rows: Rows, Q: number): { query: Tensor; key: Tensor; value: Tensor } {
  const all = rowsOf(packed, rows).permute([1, 2, 0, 3]); // (G, Q+2, t, D)
  const query = all.narrow(1, 0, Q);
  return {
    query,
    key: all.narrow(1, Q, 1).expand(query.shape),
    value: all.narrow(1, Q + 1, 1).expand(query.shape),
  };
}
