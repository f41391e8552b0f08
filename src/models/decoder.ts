/**
 * One decoder layer as two segments, h += attention(h) and h += mlp(h), forward and backward. Both work in
 * place and accumulate into what is there. The formulas are those of docs/architecture.md, "The step, written
 * out".
 */
import { type AttentionState, attend, attendBackward_ } from "../nn/attention/attention.ts";
import type { HeadNorms } from "../nn/attention/headNorms.ts";
import {
  addBiasAndLowRank_,
  addLinear_,
  addLinearGradients_,
  addLoraInnerGradients_,
  addProduct_,
  inputSlice,
  type Linear,
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
  exchanged,
  forEachGroup,
  forEachShare,
  freeExchanged,
  type HeadGroup,
  type HeadShare,
  headGroups,
  type Sequence,
  stackedShares,
} from "./attentionGroups.ts";
import {
  addInnerGradients_,
  addProjectionGradients_,
  type Inner,
  innerGradients,
  inputLowRank,
  type Linears,
  type NormalizedInput,
  normalizedInput,
  project,
} from "./projection.ts";
import { forEachTile, linearOfTiles, type MlpRows, tileInfo } from "./tiles.ts";

/** A layer's frozen weights joined with its LoRA branches, by what they do. */
export interface Layer {
  attentionNorm: RmsNorm;
  ffnNorm: RmsNorm;
  /** Norms of queries and keys, if the model has them. */
  headNorms?: HeadNorms | undefined;
  /** The linears that make queries, keys and values. */
  qkv: Linears;
  /** Attention's output linear. */
  output: Linear;
  gate: Linear;
  up: Linear;
  down: Linear;
}

/** Values that a layer keeps of its attention, for each group, if it is not recomputed. */
export type KeptAttention = GroupOutput[];

/** Outputs of gate and up, (t, F) each, tile by tile. */
export type KeptMlp = Gates[];

/** A group's attention, of the heads of this rank. out: (R, G * Q * D), the rows that are needed. */
interface GroupOutput {
  out: Tensor;
  state: AttentionState;
}

export interface AttentionOptions {
  /** Reads h again as it was before the segment. Without it the normalised input is held. */
  input?: RowSource | undefined;
  /** Whether to return what the backward needs. */
  keeps?: boolean;
  /** Category of the memory that is returned, which may outlive the segment by far. */
  keptAs?: Category;
  /** Called before h is written to, perhaps several times. */
  beforeWrite?: () => void;
}

/**
 * Adds attention(h) to h in place, in the rows that are needed. Returns the values that the backward needs if
 * `keeps`. h: (T, C).
 */
export function attentionForward_(
  h: Tensor,
  layer: Layer,
  sequence: Sequence,
  { input, keeps = false, keptAs = "workingSet", beforeWrite }: AttentionOptions = {},
): KeptAttention | undefined {
  return scope(() => {
    const { qkv, wo, info } = attentionParts(layer, sequence, { qkv: 1, wo: 1 });
    const holds = input === undefined || sequence.attentionInput === "kept";
    const x = normalizedInput(input ?? rowSource(h), h, layer.attentionNorm, sequence, holds);
    const inner = inputLowRank(x, qkv, sequence, h);
    const y = askedRows(h, sequence); // (R, C)
    const outer = zeroLowRank(y.shape[0]!, wo, info, h);
    const forwardGroup = (group: HeadGroup): GroupOutput => {
      const output = groupForward(x, inner, { ...layer, qkv }, group, sequence, keptAs);
      const addShare = ({ outColumns }: HeadShare, out: Tensor): void => {
        const part = inputSlice(wo, outColumns);
        beforeWrite?.();
        addBaseProduct_(y, out, part, info.ploraRows);
        addGroupInner_(outer, out, part, info);
      };
      scope(() => forEachShare(group, exchanged(output.out, sequence), addShare));
      return output;
    };
    const groups = headGroups(sequence);
    const kept = keeps ? groups.map((group) => scope(() => forwardGroup(group))) : undefined;
    if (!keeps) forEachGroup(groups, forwardGroup);
    addBiasAndLowRank_(y, wo, info, outer);
    return kept;
  });
}

/**
 * Turns dy, (T, C), into the gradient of the segment's input, in place; dy is zero in rows that are not
 * needed. LoRA gradients accumulate. Uses up what was kept.
 */
export function attentionBackward_(
  dy: Tensor,
  input: RowSource,
  layer: Layer,
  sequence: Sequence,
  kept?: KeptAttention,
): void {
  scope(() => {
    const { qkv, wo, info } = attentionParts(layer, sequence, { qkv: kept ? 1 : 2, wo: 1 });
    const apart = apartRows(wo, info.ploraRows);
    const x = normalizedInput(input, dy, layer.attentionNorm, sequence, sequence.attentionInput === "kept");
    const inner = inputLowRank(x, qkv, sequence, dy);
    const dx = dy.zerosLike(); // (T, C)
    const dInner = innerGradients(inner); // (T, rank) each
    const dOutput = askedRows(dy, sequence); // (R, C)
    const z = wo.lora && zeros([dOutput.shape[0]!, wo.lora.a.shape[0]!], dy); // (R, rank)
    const dz = wo.lora && dOutput.mm(wo.lora.b).mul_(wo.lora.scale); // (R, rank)
    const dzPlora = apart.map((rows) => rowsOf(dOutput, rows).mm(wo.plora!.b)); // (|I|, rank) each
    const shareGradient = (out: Tensor, { outColumns }: HeadShare): Tensor => {
      const part = inputSlice(wo, outColumns);
      const dOut = baseGradient(dOutput, part, info.ploraRows); // (R, G * Q * D)
      forEachPart(apart, rowCount, (rows, range) => {
        rowsOf(dOut, rows).addmm_(dzPlora[range]!, part.plora!.a, { alpha: wo.plora!.scale });
      });
      if (part.lora && dz) addLoraInnerGradients_({ dx: dOut, inner: z }, dz, out, part.lora, info.place);
      return dOut;
    };
    forEachGroup(headGroups(sequence), (group, index) => {
      const { out, state } = kept?.[index] ?? groupForward(x, inner, { ...layer, qkv }, group, sequence);
      const gradients = (): Tensor => stackedShares(group, exchanged(out, sequence), shareGradient);
      const dOut = scope(() => exchanged(scope(gradients), sequence));
      const du = attendBackward_(dOut, state, sequence.rope, sequence.shape, layer.headNorms);
      freeExchanged(sequence, dOut, out, state.kernel.out);
      addProjectionGradients_({ dx, dInner }, du, inner, qkv, group, sequence);
    });
    if (wo.lora?.gradB && z) addProduct_(wo.lora.gradB, dOutput.t(), z, wo.lora.scale);
    forEachTile(input.tokens, sequence, (tile) => {
      const h = input.rows(tile);
      const dxRows = rowsOf(dx, tile);
      if (dInner.size > 0) addInnerGradients_(dxRows, dInner, x.rows(tile, h), qkv, tile, sequence);
      addRmsNormGradient_(rowsOf(dy, tile), dxRows, h, layer.attentionNorm);
    });
  });
}

/**
 * Adds mlp(h) to h in place, tile by tile. Returns the values that the backward needs if `keeps`. h: (T, C).
 */
export function mlpForward_(h: Tensor, layer: Layer, seen: MlpRows, keeps = false): KeptMlp | undefined {
  return scope(() => {
    const tokens = h.shape[0]!;
    const { gate, up, down } = mlpLinears(layer, tokens, seen, { gates: 1, down: 1 });
    const forwardTile = (tile: Rows): Gates => {
      const rows = rowsOf(h, tile);
      const info = tileInfo(seen, tile);
      const x = rmsNorm(rows, layer.ffnNorm);
      const gates = category(keeps ? "boundaryActivations" : "workingSet", () =>
        gateAndUp(x, gate, up, info),
      );
      const active = activated(gates, keeps); // (t, F)
      addLinear_(rows, active, down(), info);
      return gates;
    };
    if (keeps) return tilesOf(tokens, seen.mlpTileTokens).map((tile) => scope(() => forwardTile(tile)));
    forEachTile(tokens, seen, forwardTile);
    return undefined;
  });
}

/**
 * Turns dy into the gradient of h in place, tile by tile. LoRA gradients accumulate. Uses up what was kept.
 * dy, h: (T, C), h as it was before the segment.
 */
export function mlpBackward_(dy: Tensor, h: Tensor, layer: Layer, seen: MlpRows, kept?: KeptMlp): void {
  scope(() => {
    const tokens = h.shape[0]!;
    const linears = mlpLinears(layer, tokens, seen, { gates: kept ? 1 : 2, down: 1 });
    const backTile = (tile: Rows, index: number): void => {
      const info = tileInfo(seen, tile);
      const rows = rowsOf(h, tile);
      const dRows = rowsOf(dy, tile);
      const x = rmsNorm(rows, layer.ffnNorm); // (t, C)
      const [gateLinear, upLinear] = [linears.gate(), linears.up()]; // one merge serves both products
      const { gate, up } =
        kept?.[index] ??
        gateAndUp(
          x,
          () => gateLinear,
          () => upLinear,
          info,
        ); // (t, F) each
      const dActive = scope(() => linearBackward(dRows, activated({ gate, up }, true), linears.down(), info)); // (t, F)
      const { dGate, dUp } = activationGradients_(dActive, { gate, up }); // (t, F) each
      const dx = linearBackward(dGate, x, gateLinear, info); // (t, C)
      addLinearGradients_(dx, dUp, x, upLinear, info);
      addRmsNormGradient_(dRows, dx, rows, layer.ffnNorm);
    };
    forEachTile(tokens, seen, backTile);
  });
}

/** Returns the MLP's linears for a loop over tiles; products: how many the loop makes with each row. */
function mlpLinears(
  { gate, up, down }: Layer,
  tokens: number,
  seen: MlpRows,
  products: { gates: number; down: number },
): Record<"gate" | "up" | "down", () => Linear> {
  return {
    gate: linearOfTiles(gate, tokens, seen, products.gates),
    up: linearOfTiles(up, tokens, seen, products.gates),
    down: linearOfTiles(down, tokens, seen, products.down),
  };
}

/**
 * Returns the segment's linears and the rows of its output. products: how many the segment makes with each
 * row. Merged copies belong to the open scope.
 */
function attentionParts(
  layer: Layer,
  sequence: Sequence,
  products: { qkv: number; wo: number },
): { qkv: Linears; wo: Linear; info: RowInfo } {
  const { ploraRows, plora, asked } = sequence;
  const { first = 0, ploraRows: ofOutput } = asked ?? sequence;
  const merged = [...layer.qkv].map(([name, linear]) => {
    return [name, mergedWherePays(linear, { plora, ploraRows, products: products.qkv })] as const;
  });
  return {
    qkv: new Map(merged),
    wo: mergedWherePays(layer.output, { plora, ploraRows: ofOutput, products: products.wo }),
    info: { place: first, ploraRows: ofOutput },
  };
}

/** Projects the group's heads, and attends to those of this rank. */
function groupForward(
  x: NormalizedInput,
  inner: Inner,
  { qkv, headNorms }: Pick<Layer, "qkv" | "headNorms">,
  group: HeadGroup,
  sequence: Sequence,
  keptAs: Category = "workingSet",
): GroupOutput {
  return scope(() => {
    const u = project(x, inner, qkv, group, sequence, keptAs);
    return category(keptAs, () => attend(u, sequence.rope, sequence.shape, headNorms));
  });
}

/** x: (t, C) -> gate(x), up(x): (t, F). */
function gateAndUp(x: Tensor, gate: () => Linear, up: () => Linear, info: RowInfo): Gates {
  return {
    gate: scope(() => linearForward(x, gate(), info)),
    up: scope(() => linearForward(x, up(), info)),
  };
}
