/**
 * One InternLM2 layer as two segments, h += attention(h) and h += mlp(h), forward and backward. Both work in place and accumulate
 * into what is there; the formulas are those of docs/architecture.md, "The step, written out".
 */
import { type AttentionState, attend, attendBackward_ } from "../nn/attention/attention.ts";
import {
  addLinear_,
  addLinearGradients_,
  addLoraInnerGradients_,
  addLowRank_,
  addProduct_,
  inputSlice,
  type Linear,
  type LowRank,
  linearBackward,
  linearForward,
  type RowInfo,
  zeroLowRank,
} from "../nn/linear.ts";
import { addRmsNormGradient_, type RmsNorm, rmsNorm } from "../nn/norm.ts";
import { addBaseProduct_, apartRows, baseGradient, mergedWherePays } from "../nn/plora.ts";
import { forEachPart, type RowSource, type Rows, rowCount, rowSource, rowsOf, tilesOf } from "../nn/rows.ts";
import { activated, activationGradients_, type Gates } from "../nn/swiglu.ts";
import { zeros } from "../torch/create.ts";
import { type Category, category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import {
  addGroupInner_,
  askedRows,
  forEachGroup,
  type HeadGroup,
  headGroups,
  type Sequence,
} from "./attentionGroups.ts";
import {
  addProjectionGradients_,
  inputLowRank,
  type NormalizedInput,
  normalizedInput,
  project,
} from "./projection.ts";
import { forEachTile, linearOfTiles, type MlpRows, tileInfo } from "./tiles.ts";
import type { LinearName } from "./xcomposer2/spec.ts";

/** A layer's frozen weights joined with its LoRA branches. */
export interface Layer {
  attentionNorm: RmsNorm;
  ffnNorm: RmsNorm;
  linears: Record<LinearName, Linear>;
}

/** What a layer that is not recomputed keeps of its attention, a group each. */
export type KeptAttention = GroupOutput[];

/** Outputs of w1 and w3, (t, F), a tile each. */
export type KeptMlp = Gates[];

/** out: (R, G * Q * D) of the group, of the rows that are asked for. */
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

/** h += attention(h), in place, in the rows that are asked for; returns what the backward needs where it is to be kept. h: (T, C). */
export function attentionForward_(
  h: Tensor,
  layer: Layer,
  sequence: Sequence,
  { input, keeps = false, keptAs = "workingSet", beforeWrite }: AttentionOptions = {},
): KeptAttention | undefined {
  return scope(() => {
    const { wqkv, wo, info } = attentionParts(layer, sequence, { wqkv: 1, wo: 1 });
    const holds = input === undefined || sequence.attentionInput === "kept";
    const x = normalizedInput(input ?? rowSource(h), h, layer.attentionNorm, sequence, holds);
    const inner = inputLowRank(x, wqkv, sequence);
    const y = askedRows(h, sequence); // (R, C)
    const outer = zeroLowRank(y.shape[0]!, wo, info);
    const forwardGroup = (group: HeadGroup): GroupOutput => {
      const output = groupForward(x, inner, wqkv, group, sequence, keptAs);
      const part = inputSlice(wo, group.outColumns);
      beforeWrite?.();
      addBaseProduct_(y, output.out, part, info.ploraRows);
      addGroupInner_(outer, output.out, part, info);
      return output;
    };
    const groups = headGroups(sequence);
    const kept = keeps ? groups.map((group) => scope(() => forwardGroup(group))) : undefined;
    if (!keeps) forEachGroup(groups, forwardGroup);
    addLowRank_(y, wo, info, outer);
    return kept;
  });
}

/**
 * dy, (T, C), zero in rows that are not asked for, becomes the gradient of the segment's input; LoRA gradients accumulate; what was kept
 * is used up.
 */
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
    const x = normalizedInput(input, dy, layer.attentionNorm, sequence, sequence.attentionInput === "kept");
    const inner = inputLowRank(x, wqkv, sequence);
    const dx = dy.zerosLike(); // (T, C)
    const dInner = inner.lora?.zerosLike(); // (T, rank)
    const dOutput = askedRows(dy, sequence); // (R, C)
    const z = wo.lora && zeros([dOutput.shape[0]!, wo.lora.a.shape[0]!], dy); // (R, rank)
    const dz = wo.lora && dOutput.mm(wo.lora.b).mul_(wo.lora.scale); // (R, rank)
    const dzPlora = apart.map((rows) => rowsOf(dOutput, rows).mm(wo.plora.b)); // (|I|, rank) each
    forEachGroup(headGroups(sequence), (group, index) => {
      const { out, state } = kept?.[index] ?? groupForward(x, inner, wqkv, group, sequence);
      const part = inputSlice(wo, group.outColumns);
      const dOut = baseGradient(dOutput, part, info.ploraRows); // (R, G * Q * D)
      forEachPart(apart, rowCount, (rows, range) => {
        rowsOf(dOut, rows).addmm_(dzPlora[range]!, part.plora.a, { alpha: wo.plora.scale });
      });
      if (part.lora && dz) addLoraInnerGradients_({ dx: dOut, inner: z }, dz, out, part.lora, info.place);
      const du = attendBackward_(dOut, state, sequence.rope, sequence.shape);
      addProjectionGradients_({ dx, dInner }, du, inner, wqkv, group, sequence);
    });
    if (wo.lora?.gradB && z) addProduct_(wo.lora.gradB, dOutput.t(), z, wo.lora.scale);
    forEachTile(input.tokens, sequence, (tile) => {
      const h = input.rows(tile);
      const dxRows = rowsOf(dx, tile);
      if (wqkv.lora && dInner)
        addLoraInnerGradients_({ dx: dxRows }, rowsOf(dInner, tile), x.rows(tile, h), wqkv.lora, tile.start);
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

/** The segment's linears for so many products with each row, and the rows of its output; what they are merged into belongs to the open scope. */
function attentionParts(
  { linears }: Layer,
  sequence: Sequence,
  products: { wqkv: number; wo: number },
): { wqkv: Linear; wo: Linear; info: RowInfo } {
  const { ploraRows, plora, asked } = sequence;
  const { first = 0, ploraRows: ofOutput } = asked ?? sequence;
  return {
    wqkv: mergedWherePays(linears["attention.wqkv"], { plora, ploraRows, products: products.wqkv }),
    wo: mergedWherePays(linears["attention.wo"], { plora, ploraRows: ofOutput, products: products.wo }),
    info: { place: first, ploraRows: ofOutput },
  };
}

/** The group's slice of wqkv, and attention. */
function groupForward(
  x: NormalizedInput,
  inner: LowRank,
  wqkv: Linear,
  group: HeadGroup,
  sequence: Sequence,
  keptAs: Category = "workingSet",
): GroupOutput {
  return scope(() => {
    const u = project(x, inner, wqkv, group, sequence, keptAs);
    return category(keptAs, () => attend(u, sequence.rope, sequence.shape));
  });
}

/** x: (t, C) -> w1(x), w3(x): (t, F). */
function gateAndUp(x: Tensor, w1: () => Linear, w3: () => Linear, info: RowInfo): Gates {
  return {
    gate: scope(() => linearForward(x, w1(), info)),
    up: scope(() => linearForward(x, w3(), info)),
  };
}
