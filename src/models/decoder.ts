/**
 * One InternLM2 layer as two segments, h += attention(h) and h += mlp(h), forward and backward. Both work in place and accumulate
 * into what is there; the formulas are those of docs/architecture.md, "The step, written out".
 */
import {
  type AttentionShape,
  type AttentionState,
  attend,
  attendBackward,
  type Rope,
} from "../nn/attention.ts";
import { dropBlock_, dropoutBlocks } from "../nn/dropout.ts";
import { addFrozenProduct_, frozenGradient } from "../nn/frozen.ts";
import {
  addInputGradient_,
  addLinear_,
  addLinearGradients_,
  addLoraInnerGradient_,
  addLowRank_,
  inputSlice,
  type Linear,
  type LoraBranch,
  type LowRank,
  linearBackward,
  linearForward,
  loraOuterGradient,
  lowRank,
  outputSlice,
  type RowInfo,
} from "../nn/linear.ts";
import { addRmsNormGradient_, type RmsNorm, rmsNorm } from "../nn/norm.ts";
import { clipRows, type Rows, rowsOf, tilesOf } from "../nn/rows.ts";
import { zeros } from "../torch/create.ts";
import { siluBackward } from "../torch/ops.gen.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { LinearName } from "./spec.ts";

/** A layer's frozen weights joined with its LoRA branches. */
export interface Layer {
  attentionNorm: RmsNorm;
  ffnNorm: RmsNorm;
  linears: Record<LinearName, Linear>;
}

/** The micro-batch as the layers see it, and how finely they cut it. */
export interface Sequence {
  rope: Rope;
  shape: AttentionShape;
  imageRows: readonly Rows[];
  kvHeads: number;
  /** Groups of kv heads that attention takes one after the other; divides kvHeads. */
  headGroups: number;
  /** Rows that the MLP takes at a time. */
  mlpTileTokens: number;
}

/** What a layer that is not recomputed keeps of its attention, a group each. */
export type KeptAttention = GroupOutput[];

/** Outputs of w1 and w3, (t, F), a tile each. */
export type KeptMlp = { gate: Tensor; up: Tensor }[];

/** out: (T, G * Q * D) of the group. */
interface GroupOutput {
  out: Tensor;
  state: AttentionState;
}

/** h += attention(h), in place; returns what the backward needs where it is to be kept. h: (T, C). */
export function attentionForward_(
  h: Tensor,
  layer: Layer,
  sequence: Sequence,
  keeps = false,
): KeptAttention | undefined {
  const { wqkv, wo, info } = attentionParts(layer, sequence);
  return scope(() => {
    const x = rmsNorm(h, layer.attentionNorm); // (T, C)
    const inner = lowRank(x, wqkv, info);
    const outer = zeroLowRank(h, wo, info);
    const outputs = headGroups(sequence).map((group) =>
      scope(() => {
        const output = groupForward(x, inner, wqkv, group, sequence);
        const part = inputSlice(wo, group.outColumns);
        addFrozenProduct_(h, output.out, part.weight);
        addGroupInner_(outer, output.out, part, info, group);
        return keeps ? output : undefined;
      }),
    );
    addLowRank_(h, wo, info, outer);
    return keeps ? outputs.filter((output) => output !== undefined) : undefined;
  });
}

/** dy becomes the gradient of h; LoRA gradients accumulate. dy, h: (T, C), h before the segment. */
export function attentionBackward_(
  dy: Tensor,
  h: Tensor,
  layer: Layer,
  sequence: Sequence,
  kept?: KeptAttention,
): void {
  const { wqkv, wo, info } = attentionParts(layer, sequence);
  scope(() => {
    const x = rmsNorm(h, layer.attentionNorm); // (T, C)
    const inner = lowRank(x, wqkv, info);
    const dx = x.zerosLike(); // (T, C)
    const like = { dtype: h.dtype, device: h.device };
    const dInner = inner.lora?.zerosLike(); // (T, R)
    const z = wo.lora && zeros([h.shape[0]!, wo.lora.a.shape[0]!], like); // (T, R)
    const dzPlora = info.imageRows.map((rows) => rowsOf(dy, rows).mm(wo.plora.b)); // (|I|, rank) each
    const dz = wo.lora && dy.mm(wo.lora.b).mul_(wo.lora.scale); // (T, R)
    headGroups(sequence).forEach((group, index) => {
      scope(() => {
        const { out, state } = kept?.[index] ?? groupForward(x, inner, wqkv, group, sequence);
        const part = inputSlice(wo, group.outColumns);
        const dOut = frozenGradient(dy, part.weight); // (T, G * Q * D)
        info.imageRows.forEach((rows, picture) => {
          rowsOf(dOut, rows).addmm_(dzPlora[picture]!, part.plora.a, { alpha: wo.plora.scale });
        });
        if (part.lora && z && dz)
          addGroupLoraGradients_({ dOut, z, gradA: part.lora.gradA }, dz, out, part.lora, group);
        const du = attendBackward(dOut, state, sequence.rope, sequence.shape); // (T, G * (Q+2) * D)
        const rows = outputSlice(wqkv, group.qkvRows);
        if (rows.lora && inner.lora) dInner?.add_(loraOuterGradient(du, inner.lora, rows.lora));
        addInputGradient_(dx, du, rows, info);
      });
    });
    if (wo.lora && z) wo.lora.gradB?.add_(dy.t().mm(z), { alpha: wo.lora.scale });
    if (wqkv.lora && dInner) addLoraInnerGradient_(dx, dInner, x, wqkv.lora, info.firstRow);
    addRmsNormGradient_(dy, dx, h, layer.attentionNorm);
  });
}

/** h += mlp(h), in place, tile by tile; returns what the backward needs where it is to be kept. h: (T, C). */
export function mlpForward_(h: Tensor, layer: Layer, sequence: Sequence, keeps = false): KeptMlp | undefined {
  const tiles = tilesOf(h.shape[0]!, sequence.mlpTileTokens).map((tile) =>
    scope(() => {
      const rows = rowsOf(h, tile);
      const info = tileInfo(sequence, tile);
      const gates = gateAndUp(rmsNorm(rows, layer.ffnNorm), layer, info);
      const active = (keeps ? gates.gate.silu() : gates.gate.silu_()).mul_(gates.up); // (t, F)
      addLinear_(rows, active, layer.linears["feed_forward.w2"], info);
      return keeps ? gates : undefined;
    }),
  );
  return keeps ? tiles.filter((tile) => tile !== undefined) : undefined;
}

/** dy becomes the gradient of h, tile by tile; LoRA gradients accumulate. dy, h: (T, C), h before the segment. */
export function mlpBackward_(dy: Tensor, h: Tensor, layer: Layer, sequence: Sequence, kept?: KeptMlp): void {
  const { "feed_forward.w1": w1, "feed_forward.w2": w2, "feed_forward.w3": w3 } = layer.linears;
  tilesOf(h.shape[0]!, sequence.mlpTileTokens).forEach((tile, index) => {
    scope(() => {
      const info = tileInfo(sequence, tile);
      const rows = rowsOf(h, tile);
      const dRows = rowsOf(dy, tile);
      const x = rmsNorm(rows, layer.ffnNorm); // (t, C)
      const { gate, up } = kept?.[index] ?? gateAndUp(x, layer, info); // (t, F) each
      const dActive = scope(() => linearBackward(dRows, gate.silu().mul_(up), w2, info)); // (t, F)
      const dUp = dActive.mul(gate.silu()); // (t, F)
      const dGate = siluBackward(dActive.mul_(up), gate); // (t, F)
      const dx = linearBackward(dGate, x, w1, info); // (t, C)
      addLinearGradients_(dx, dUp, x, w3, info);
      addRmsNormGradient_(dRows, dx, rows, layer.ffnNorm);
    });
  });
}

interface HeadGroup {
  /** kv heads of the group. */
  heads: Rows;
  /** Their rows of wqkv and columns of wo. */
  qkvRows: Rows;
  outColumns: Rows;
  /** Columns of one kv head in the group's attention output. */
  headColumns: number;
}

function headGroups({ kvHeads, headGroups, shape: { Q, D } }: Sequence): HeadGroup[] {
  return tilesOf(kvHeads, kvHeads / headGroups).map((heads) => ({
    heads,
    qkvRows: { start: heads.start * (Q + 2) * D, end: heads.end * (Q + 2) * D },
    outColumns: { start: heads.start * Q * D, end: heads.end * Q * D },
    headColumns: Q * D,
  }));
}

function attentionParts(layer: Layer, { imageRows }: Sequence): { wqkv: Linear; wo: Linear; info: RowInfo } {
  const { "attention.wqkv": wqkv, "attention.wo": wo } = layer.linears;
  return { wqkv, wo, info: { firstRow: 0, imageRows } };
}

function tileInfo({ imageRows }: Sequence, tile: Rows): RowInfo {
  return { firstRow: tile.start, imageRows: clipRows(imageRows, tile) };
}

/** The group's slice of wqkv, and attention. x: (T, C). */
function groupForward(
  x: Tensor,
  inner: LowRank,
  wqkv: Linear,
  { qkvRows }: HeadGroup,
  { rope, shape, imageRows }: Sequence,
): GroupOutput {
  return scope(() => {
    const u = linearForward(x, outputSlice(wqkv, qkvRows), { firstRow: 0, imageRows }, inner); // (T, G * (Q+2) * D)
    return attend(u, rope, shape);
  });
}

/** x: (t, C) -> w1(x), w3(x): (t, F). */
function gateAndUp(x: Tensor, { linears }: Layer, info: RowInfo): { gate: Tensor; up: Tensor } {
  return {
    gate: linearForward(x, linears["feed_forward.w1"], info),
    up: linearForward(x, linears["feed_forward.w3"], info),
  };
}

/** Zeros to accumulate the inner products of wo in, group by group. */
function zeroLowRank(h: Tensor, { plora, lora }: Linear, { imageRows }: RowInfo): LowRank {
  const like = { dtype: h.dtype, device: h.device };
  return {
    lora: lora && zeros([h.shape[0]!, lora.a.shape[0]!], like),
    plora: imageRows.map(({ start, end }) => zeros([end - start, plora.a.shape[0]!], like)),
  };
}

/** outer += the inner products of a group's attention output. out: (T, G * Q * D). */
function addGroupInner_(outer: LowRank, out: Tensor, part: Linear, info: RowInfo, group: HeadGroup): void {
  info.imageRows.forEach((rows, picture) => {
    outer.plora[picture]!.addmm_(rowsOf(out, rows), part.plora.a.t());
  });
  const { lora } = part;
  if (lora && outer.lora) addDroppedInner_(outer.lora, out, lora, group);
}

/** z += drop(out) A^T; masks are drawn for each kv head, so that grouping does not change them. */
function addDroppedInner_(z: Tensor, out: Tensor, { a, dropout }: LoraBranch, group: HeadGroup): void {
  for (const { rows, columns, head } of dropoutParts(out, dropout, group)) {
    scope(() => {
      const seen = rowsOf(out, rows).narrow(1, columns.start, columns.end - columns.start);
      const kept = dropout ? dropBlock_(seen.clone(), dropout, rows.start, head) : seen;
      rowsOf(z, rows).addmm_(kept, a.narrow(1, columns.start, columns.end - columns.start).t());
    });
  }
}

/** Adds the group's share to dOut (gradient of its output), z (inner products) and gradA. dz: (T, R), out: (T, G * Q * D). */
function addGroupLoraGradients_(
  { dOut, z, gradA }: { dOut: Tensor; z: Tensor; gradA: Tensor | undefined },
  dz: Tensor,
  out: Tensor,
  { a, dropout }: LoraBranch,
  group: HeadGroup,
): void {
  for (const { rows, columns, head } of dropoutParts(out, dropout, group)) {
    scope(() => {
      const cut = (x: Tensor): Tensor => x.narrow(1, columns.start, columns.end - columns.start);
      const seen = cut(rowsOf(out, rows));
      const kept = dropout ? dropBlock_(seen.clone(), dropout, rows.start, head) : seen;
      const dzRows = rowsOf(dz, rows);
      rowsOf(z, rows).addmm_(kept, cut(a).t());
      gradA && cut(gradA).add_(dzRows.t().mm(kept));
      const into = cut(rowsOf(dOut, rows));
      if (dropout) into.add_(dropBlock_(dzRows.mm(cut(a)), dropout, rows.start, head));
      else into.addmm_(dzRows, cut(a));
    });
  }
}

/** The blocks of a group's output that have a mask of their own; all of it where nothing is dropped. */
function dropoutParts(
  out: Tensor,
  dropout: LoraBranch["dropout"],
  { heads, headColumns }: HeadGroup,
): { rows: Rows; columns: Rows; head: number }[] {
  const [rows, columns] = [out.shape[0]!, out.shape[1]!];
  return dropoutBlocks(rows, dropout).flatMap((block) =>
    tilesOf(columns, dropout ? headColumns : columns).map((cut, index) => ({
      rows: block,
      columns: cut,
      head: heads.start + index,
    })),
  );
}
