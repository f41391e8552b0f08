/**
 * One InternLM2 layer as two segments, h += attention(h) and h += mlp(h), forward and backward. Both work in place and accumulate
 * into what is there; the formulas are those of docs/architecture.md, "The step, written out".
 */
import { type AttentionState, attend, attendBackward_, type Rope } from "../nn/attention.ts";
import type { AttentionShape } from "../nn/attentionKernels.ts";
import { dropBlock_, dropoutBlocks } from "../nn/dropout.ts";
import {
  addInputGradient_,
  addLinear_,
  addLinearGradients_,
  addLoraInnerGradient_,
  addLowRank_,
  addProduct_,
  inputSlice,
  type Linear,
  type LoraBranch,
  type LowRank,
  linearBackward,
  linearForward,
  loraOuterGradient,
  lowRank,
  lowRankRows,
  outputSlice,
  type RowInfo,
  zeroLowRank,
} from "../nn/linear.ts";
import { addRmsNormGradient_, type RmsNorm, rmsNorm, rmsNormInto } from "../nn/norm.ts";
import { addBaseProduct_, apartRows, baseGradient, mergedWherePays } from "../nn/plora.ts";
import {
  forEachKind,
  forEachPart,
  type Kind,
  kindsOfTiles,
  type RowSource,
  type Rows,
  rowCount,
  rowSource,
  rowsOf,
  tilesOf,
} from "../nn/rows.ts";
import { activated, activationGradients_, type Gates } from "../nn/swiglu.ts";
import { zeros } from "../torch/create.ts";
import { type Category, category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { LinearName } from "./spec.ts";
import { forEachTile, linearOfTiles, type MlpRows, tileInfo } from "./tiles.ts";

/** A layer's frozen weights joined with its LoRA branches. */
export interface Layer {
  attentionNorm: RmsNorm;
  ffnNorm: RmsNorm;
  linears: Record<LinearName, Linear>;
}

/** The micro-batch as the layers see it, and how finely they cut it. */
export interface Sequence extends MlpRows {
  rope: Rope;
  shape: AttentionShape;
  kvHeads: number;
  /** Groups of kv heads that attention takes one after the other; divides kvHeads. */
  headGroups: number;
  /** Whether attention's normalised input is held, or made again in tiles of rows whenever a group needs it. */
  attentionInput: "kept" | "recomputed";
}

/** What a layer that is not recomputed keeps of its attention, a group each. */
export type KeptAttention = GroupOutput[];

/** Outputs of w1 and w3, (t, F), a tile each. */
export type KeptMlp = Gates[];

/** out: (T, G * Q * D) of the group. */
interface GroupOutput {
  out: Tensor;
  state: AttentionState;
}

export interface AttentionOptions {
  /** Where h, as it was before the segment, can be had again; without it the normalised input is held. */
  input?: RowSource | undefined;
  /** Whether to return what the backward needs. */
  keeps?: boolean;
  /** What the memory of that counts as: it may outlive the segment by far. */
  keptAs?: Category;
  /** Called before h is written to, perhaps several times. */
  beforeWrite?: () => void;
}

/** h += attention(h), in place; returns what the backward needs where it is to be kept. h: (T, C). */
export function attentionForward_(
  h: Tensor,
  layer: Layer,
  sequence: Sequence,
  { input, keeps = false, keptAs = "workingSet", beforeWrite }: AttentionOptions = {},
): KeptAttention | undefined {
  return scope(() => {
    const { wqkv, wo, info } = attentionParts(layer, sequence, { wqkv: 1, wo: 1 });
    const holds = input === undefined || sequence.attentionInput === "kept";
    const x = normalizedInput(input ?? rowSource(h), h, layer, sequence, holds);
    const inner = inputLowRank(x, wqkv, sequence);
    const outer = zeroLowRank(h.shape[0]!, wo, info);
    const forwardGroup = (group: HeadGroup): GroupOutput => {
      const output = groupForward(x, inner, wqkv, group, sequence, keptAs);
      const part = inputSlice(wo, group.outColumns);
      beforeWrite?.();
      addBaseProduct_(h, output.out, part, info.ploraRows);
      addGroupInner_(outer, output.out, part, info, group);
      return output;
    };
    const groups = headGroups(sequence);
    const kept = keeps ? groups.map((group) => scope(() => forwardGroup(group))) : undefined;
    if (!keeps) forEachGroup(groups, forwardGroup);
    addLowRank_(h, wo, info, outer);
    return kept;
  });
}

/** dy, (T, C), becomes the gradient of the segment's input; LoRA gradients accumulate; what was kept is used up. */
export function attentionBackward_(
  dy: Tensor,
  input: RowSource,
  layer: Layer,
  sequence: Sequence,
  kept?: KeptAttention,
): void {
  scope(() => {
    const { wqkv, wo, info } = attentionParts(layer, sequence, { wqkv: kept ? 1 : 2, wo: 1 });
    const apart = apartRows(wo, info.ploraRows);
    const x = normalizedInput(input, dy, layer, sequence, sequence.attentionInput === "kept");
    const inner = inputLowRank(x, wqkv, sequence);
    const dx = dy.zerosLike(); // (T, C)
    const dInner = inner.lora?.zerosLike(); // (T, R)
    const z = wo.lora && zeros([dy.shape[0]!, wo.lora.a.shape[0]!], dy); // (T, R)
    const dz = wo.lora && dy.mm(wo.lora.b).mul_(wo.lora.scale); // (T, R)
    const dzPlora = apart.map((rows) => rowsOf(dy, rows).mm(wo.plora.b)); // (|I|, rank) each
    forEachGroup(headGroups(sequence), (group, index) => {
      const { out, state } = kept?.[index] ?? groupForward(x, inner, wqkv, group, sequence);
      const part = inputSlice(wo, group.outColumns);
      const dOut = baseGradient(dy, part, info.ploraRows); // (T, G * Q * D)
      forEachPart(apart, rowCount, (rows, range) => {
        rowsOf(dOut, rows).addmm_(dzPlora[range]!, part.plora.a, { alpha: wo.plora.scale });
      });
      if (part.lora && z && dz)
        addGroupLoraGradients_({ dOut, z, gradA: part.lora.gradA }, dz, out, part.lora, group);
      const du = attendBackward_(dOut, state, sequence.rope, sequence.shape); // (T, G * (Q+2) * D)
      const rows = outputSlice(wqkv, group.qkvRows);
      if (rows.lora && inner.lora) dInner?.add_(loraOuterGradient(du, inner.lora, rows.lora));
      addInputGradient_(dx, du, rows, info);
    });
    if (wo.lora?.gradB && z) addProduct_(wo.lora.gradB, dy.t(), z, wo.lora.scale);
    forEachTile(input.tokens, sequence, (tile) => {
      const h = input.rows(tile);
      const dxRows = rowsOf(dx, tile);
      if (wqkv.lora && dInner)
        addLoraInnerGradient_(dxRows, rowsOf(dInner, tile), x.rows(tile, h), wqkv.lora, tile.start);
      addRmsNormGradient_(rowsOf(dy, tile), dxRows, h, layer.attentionNorm);
    });
  });
}

/** h += mlp(h), in place, tile by tile; returns what the backward needs where it is to be kept. h: (T, C). */
export function mlpForward_(h: Tensor, layer: Layer, seen: MlpRows, keeps = false): KeptMlp | undefined {
  return scope(() => {
    const tokens = h.shape[0]!;
    const { w1, w3, w2 } = mlpLinears(layer, tokens, seen, { gates: 1, w2: 1 });
    const forwardTile = (tile: Rows): Gates => {
      const rows = rowsOf(h, tile);
      const info = tileInfo(seen, tile);
      const x = rmsNorm(rows, layer.ffnNorm);
      const gates = category(keeps ? "boundaryActivations" : "workingSet", () => gateAndUp(x, w1, w3, info));
      const active = activated(gates, keeps); // (t, F)
      addLinear_(rows, active, w2(), info);
      return gates;
    };
    if (keeps) return tilesOf(tokens, seen.mlpTileTokens).map((tile) => scope(() => forwardTile(tile)));
    forEachTile(tokens, seen, forwardTile);
    return undefined;
  });
}

/** dy becomes the gradient of h, tile by tile; LoRA gradients accumulate; what was kept is used up. dy, h: (T, C), h before the segment. */
export function mlpBackward_(dy: Tensor, h: Tensor, layer: Layer, seen: MlpRows, kept?: KeptMlp): void {
  scope(() => {
    const tokens = h.shape[0]!;
    const linears = mlpLinears(layer, tokens, seen, { gates: kept ? 1 : 2, w2: 1 });
    const backTile = (tile: Rows, index: number): void => {
      const info = tileInfo(seen, tile);
      const rows = rowsOf(h, tile);
      const dRows = rowsOf(dy, tile);
      const x = rmsNorm(rows, layer.ffnNorm); // (t, C)
      const [w1, w3] = [linears.w1(), linears.w3()]; // one merge serves both products
      const { gate, up } =
        kept?.[index] ??
        gateAndUp(
          x,
          () => w1,
          () => w3,
          info,
        ); // (t, F) each
      const dActive = scope(() => linearBackward(dRows, activated({ gate, up }, true), linears.w2(), info)); // (t, F)
      const { dGate, dUp } = activationGradients_(dActive, { gate, up }); // (t, F) each
      const dx = linearBackward(dGate, x, w1, info); // (t, C)
      addLinearGradients_(dx, dUp, x, w3, info);
      addRmsNormGradient_(dRows, dx, rows, layer.ffnNorm);
    };
    forEachTile(tokens, seen, backTile);
  });
}

/** The MLP's linears for a loop over tiles, with so many products for each row. */
function mlpLinears(
  { linears }: Layer,
  tokens: number,
  seen: MlpRows,
  products: { gates: number; w2: number },
): Record<"w1" | "w2" | "w3", () => Linear> {
  return {
    w1: linearOfTiles(linears["feed_forward.w1"], tokens, seen, products.gates),
    w3: linearOfTiles(linears["feed_forward.w3"], tokens, seen, products.gates),
    w2: linearOfTiles(linears["feed_forward.w2"], tokens, seen, products.w2),
  };
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

/** Calls body for each group in a scope of its own; all are alike. */
function forEachGroup(
  groups: readonly HeadGroup[],
  body: (group: HeadGroup, index: number) => unknown,
): void {
  forEachPart(
    groups,
    () => "group",
    (group, index) => {
      scope(() => void body(group, index));
    },
  );
}

/** The segment's linears for so many products with each row; what they are merged into belongs to the open scope. */
function attentionParts(
  { linears }: Layer,
  { ploraRows, plora }: Sequence,
  products: { wqkv: number; wo: number },
): { wqkv: Linear; wo: Linear; info: RowInfo } {
  return {
    wqkv: mergedWherePays(linears["attention.wqkv"], { plora, ploraRows, products: products.wqkv }),
    wo: mergedWherePays(linears["attention.wo"], { plora, ploraRows, products: products.wo }),
    info: { place: 0, ploraRows },
  };
}

/** Attention's normalised input, (T, C), in tiles of rows. */
interface NormalizedInput {
  tokens: number;
  tileTokens: number;
  /** The tile's rows, (t, C); h: the same rows of the input, where they are at hand. */
  rows(tile: Rows, h?: Tensor): Tensor;
}

/** Held in one piece, or made again for each tile that is asked for. like: any (T, C) of its dtype. */
function normalizedInput(
  input: RowSource,
  like: Tensor,
  { attentionNorm }: Layer,
  sequence: Sequence,
  holds: boolean,
): NormalizedInput {
  const { tokens } = input;
  const tileTokens = sequence.mlpTileTokens;
  if (!holds) return { tokens, tileTokens, rows: (tile, h = input.rows(tile)) => rmsNorm(h, attentionNorm) };
  const x = like.emptyLike(); // (T, C)
  forEachTile(tokens, sequence, (tile) => rmsNormInto(rowsOf(x, tile), input.rows(tile), attentionNorm));
  return { tokens, tileTokens: tokens, rows: (tile) => rowsOf(x, tile) };
}

/** The inner products of wqkv's low-rank branches, of all rows. */
function inputLowRank(x: NormalizedInput, wqkv: Linear, sequence: Sequence): LowRank {
  const { ploraRows } = sequence;
  const inner = zeroLowRank(x.tokens, wqkv, { place: 0, ploraRows });
  forEachTile(x.tokens, { ...sequence, mlpTileTokens: x.tileTokens }, (tile) => {
    const rows = lowRankRows(inner, ploraRows, tile);
    const part = lowRank(x.rows(tile), wqkv, tileInfo(sequence, tile));
    if (part.lora) rows.lora?.copy_(part.lora);
    rows.plora.forEach((branch, index) => {
      branch.copy_(part.plora[index]!);
    });
  });
  return inner;
}

/** The group's slice of wqkv, and attention. */
function groupForward(
  x: NormalizedInput,
  inner: LowRank,
  wqkv: Linear,
  { qkvRows }: HeadGroup,
  sequence: Sequence,
  keptAs: Category = "workingSet",
): GroupOutput {
  return scope(() => {
    const { rope, shape, ploraRows } = sequence;
    const part = outputSlice(wqkv, qkvRows);
    const { dtype, device } = part.plora.b;
    const [T, columns] = [x.tokens, rowCount(qkvRows)];
    const u = category(keptAs, () => zeros([T, columns], { dtype, device })); // (T, G * (Q+2) * D)
    forEachTile(x.tokens, { ...sequence, mlpTileTokens: x.tileTokens }, (tile) => {
      const rows = lowRankRows(inner, ploraRows, tile);
      addLinear_(rowsOf(u, tile), x.rows(tile), part, tileInfo(sequence, tile), rows);
    });
    return category(keptAs, () => attend(u, rope, shape));
  });
}

/** x: (t, C) -> w1(x), w3(x): (t, F). */
function gateAndUp(x: Tensor, w1: () => Linear, w3: () => Linear, info: RowInfo): Gates {
  return {
    gate: scope(() => linearForward(x, w1(), info)),
    up: scope(() => linearForward(x, w3(), info)),
  };
}

/** outer += the inner products of a group's attention output. out: (T, G * Q * D). */
function addGroupInner_(outer: LowRank, out: Tensor, part: Linear, info: RowInfo, group: HeadGroup): void {
  forEachPart(apartRows(part, info.ploraRows), rowCount, (rows, range) => {
    outer.plora[range]!.addmm_(rowsOf(out, rows), part.plora.a.t());
  });
  const { lora } = part;
  if (lora && outer.lora) addDroppedInner_(outer.lora, out, lora, group);
}

/** z += drop(out) A^T; masks are drawn for each kv head, so that grouping does not change them. */
function addDroppedInner_(z: Tensor, out: Tensor, { a, dropout }: LoraBranch, group: HeadGroup): void {
  forEachKind(dropoutParts(out, dropout, group), ({ rows, columns, head }) => {
    scope(() => {
      const seen = rowsOf(out, rows).narrow(1, columns.start, columns.end - columns.start);
      const kept = dropout ? dropBlock_(seen.clone(), dropout, rows.start, head) : seen;
      rowsOf(z, rows).addmm_(kept, a.narrow(1, columns.start, columns.end - columns.start).t());
    });
  });
}

/** Adds the group's share to dOut (gradient of its output), z (inner products) and gradA. dz: (T, R), out: (T, G * Q * D). */
function addGroupLoraGradients_(
  { dOut, z, gradA }: { dOut: Tensor; z: Tensor; gradA: Tensor | undefined },
  dz: Tensor,
  out: Tensor,
  { a, dropout }: LoraBranch,
  group: HeadGroup,
): void {
  forEachKind(dropoutParts(out, dropout, group), ({ rows, columns, head }) => {
    scope(() => {
      const cut = (x: Tensor): Tensor => x.narrow(1, columns.start, columns.end - columns.start);
      const seen = cut(rowsOf(out, rows));
      const kept = dropout ? dropBlock_(seen.clone(), dropout, rows.start, head) : seen;
      const dzRows = rowsOf(dz, rows);
      rowsOf(z, rows).addmm_(kept, cut(a).t());
      if (gradA) addProduct_(cut(gradA), dzRows.t(), kept);
      const into = cut(rowsOf(dOut, rows));
      if (dropout) into.add_(dropBlock_(dzRows.mm(cut(a)), dropout, rows.start, head));
      else into.addmm_(dzRows, cut(a));
    });
  });
}

/** The blocks of a group's output that have a mask of their own, as a loop has to take them; all of it where nothing is dropped. */
function dropoutParts(
  out: Tensor,
  dropout: LoraBranch["dropout"],
  { heads, headColumns }: HeadGroup,
): Kind<{ rows: Rows; columns: Rows; head: number }>[] {
  const [rows, columns] = [out.shape[0]!, out.shape[1]!];
  const cuts = kindsOfTiles(columns, dropout ? headColumns : columns);
  return dropoutBlocks(rows, dropout, 0).flatMap((block) =>
    cuts.map((cut) => ({
      part: { rows: block.part, columns: cut.part, head: heads.start + cut.index },
      index: block.index * cuts.length + cut.index,
      times: block.times * cut.times,
    })),
  );
}
