/**
 * A frozen linear with two low-rank branches: y = x W^T + bias + s drop(x) A^T B^T on all rows (LoRA) + p x
 * PA^T PB^T on PLoRA rows. Not every linear has a bias or PLoRA. If PLoRA is merged into W, its rows use
 * x M^T instead (plora.ts). LoRA is never merged: bf16 would round away what a step adds to W.
 *
 * Forward and backward are written by hand and accumulate in place. Names: docs/architecture.md.
 */
import { zeros } from "../torch/create.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { addDropped_, type Dropout, dropped, forEachDropoutTile, type RowPlace } from "./dropout.ts";
import { frozenColumns, frozenRows } from "./frozen/frozen.ts";
import {
  addBaseGradient_,
  addBaseProduct_,
  apartRows,
  baseGradient,
  baseProduct,
  type FrozenLinear,
} from "./plora.ts";
import { clipRows, columnsOf, forEachPart, type Rows, rowCount, rowsOf } from "./rows.ts";

/**
 * LoRA's factors: a (R, in) and b (out, R) in the compute dtype. Gradients have the same shapes; undefined in
 * evaluation.
 */
export interface LoraBranch {
  a: Tensor;
  b: Tensor;
  gradA: Tensor | undefined;
  gradB: Tensor | undefined;
  scale: number;
  dropout: Dropout | undefined;
  /** Index of the linear's input that the first column of `a` reads; default 0. */
  firstInput?: number;
}

/** A frozen weight with PLoRA, and the LoRA branch that is trained. */
export interface Linear extends FrozenLinear {
  lora: LoraBranch | undefined;
}

/**
 * The rows of the micro-batch in a tensor. ploraRows: the rows that PLoRA acts on, counted from the tensor's
 * first row.
 */
export interface RowInfo {
  place: RowPlace;
  ploraRows: readonly Rows[];
}

/**
 * x in the low ranks: lora (T, R), and one plora (|I|, rank) for each range I of PLoRA rows. plora is empty
 * if PLoRA is merged.
 */
export interface LowRank {
  lora: Tensor | undefined;
  plora: Tensor[];
}

/** Returns the inner products of the low-rank branches. x: (T, in). */
export function lowRank(x: Tensor, linear: Linear, info: RowInfo): LowRank {
  return {
    lora: linear.lora && loraInner(x, linear.lora, info.place),
    plora: apartRows(linear, info.ploraRows).map((rows) => rowsOf(x, rows).mm(linear.plora!.a.t())),
  };
}

/** Allocates inner products of T rows, filled with zeros; dtype: the compute dtype. */
export function zeroLowRank(
  tokens: number,
  linear: Linear,
  { ploraRows }: RowInfo,
  { dtype, device }: Pick<Tensor, "dtype" | "device">,
): LowRank {
  const { plora, lora } = linear;
  const room = (rows: number, factor: Tensor): Tensor => zeros([rows, factor.shape[0]!], { dtype, device });
  return {
    lora: lora && room(tokens, lora.a),
    plora: apartRows(linear, ploraRows).map((rows) => room(rowCount(rows), plora!.a)),
  };
}

/** Returns views of some rows of the inner products; ploraRows: the PLoRA rows among all rows. */
export function lowRankRows({ lora, plora }: LowRank, ploraRows: readonly Rows[], rows: Rows): LowRank {
  return {
    lora: lora && rowsOf(lora, rows),
    plora: plora.flatMap((inner, index) =>
      clipRows([rows], ploraRows[index]!).map((shared) => rowsOf(inner, shared)),
    ),
  };
}

/**
 * Returns the part of a linear that computes some of its outputs: rows of weight, merged weight, bias,
 * plora.b and lora.b.
 */
export function outputSlice(linear: Linear, rows: Rows): Linear {
  const cut = (x: Tensor): Tensor => rowsOf(x, rows);
  const { weight, bias, plora, merged, lora } = linear;
  return {
    weight: frozenRows(weight, rows),
    bias: bias && cut(bias),
    plora: plora && { ...plora, b: cut(plora.b) },
    merged: merged && cut(merged),
    lora: lora && { ...lora, b: cut(lora.b), gradB: lora.gradB && cut(lora.gradB) },
  };
}

/**
 * Returns the part of a linear that reads some of its inputs: columns of weight, merged weight, plora.a and
 * lora.a. It has no bias, which is added once to the sum of the parts.
 */
export function inputSlice(linear: Linear, columns: Rows): Linear {
  const cut = (x: Tensor): Tensor => columnsOf(x, columns);
  const { weight, plora, merged, lora } = linear;
  return {
    weight: frozenColumns(weight, columns),
    plora: plora && { ...plora, a: cut(plora.a) },
    merged: merged && cut(merged),
    lora: lora && {
      ...lora,
      ...{ a: cut(lora.a), gradA: lora.gradA && cut(lora.gradA) },
      firstInput: (lora.firstInput ?? 0) + columns.start,
    },
  };
}

/** Returns linear(x). x: (T, in) -> (T, out). */
export function linearForward(x: Tensor, linear: Linear, info: RowInfo): Tensor {
  return scope(() => {
    const y = baseProduct(x, linear, info.ploraRows); // (T, out)
    addBiasAndLowRank_(y, linear, info, lowRank(x, linear, info));
    return y;
  });
}

/** Adds linear(x) to `into`. x: (T, in), into: (T, out). */
export function addLinear_(into: Tensor, x: Tensor, linear: Linear, info: RowInfo): void {
  scope(() => {
    addBaseProduct_(into, x, linear, info.ploraRows);
    addBiasAndLowRank_(into, linear, info, lowRank(x, linear, info));
  });
}

/** Writes linear(x) into `into`. inner: lowRank(x); x: (T, in), into: (T, out). */
export function linearInto_(into: Tensor, x: Tensor, linear: Linear, info: RowInfo, inner: LowRank): void {
  scope(() => {
    addBaseProduct_(into, x, linear, info.ploraRows, 0);
    addBiasAndLowRank_(into, linear, info, inner);
  });
}

/** Adds the bias and the outer products of the low-rank branches to y, (T, out). */
export function addBiasAndLowRank_(y: Tensor, linear: Linear, { ploraRows }: RowInfo, inner: LowRank): void {
  const { bias, plora, lora } = linear;
  scope(() => {
    if (bias) y.add_(bias);
    if (lora && inner.lora) y.addmm_(inner.lora, lora.b.t(), { alpha: lora.scale });
    forEachPart(apartRows(linear, ploraRows), rowCount, (rows, part) => {
      rowsOf(y, rows).addmm_(inner.plora[part]!, plora!.b.t(), { alpha: plora!.scale });
    });
  });
}

/**
 * Returns the gradient of x, (T, in), for the gradient dy, (T, out), of linear(x). Accumulates LoRA
 * gradients. x: (T, in).
 */
export function linearBackward(dy: Tensor, x: Tensor, linear: Linear, info: RowInfo): Tensor {
  return scope(() => {
    const dx = baseGradient(dy, linear, info.ploraRows); // (T, in)
    addPloraGradient_(dx, dy, linear, info);
    addLoraGradients_(dx, dy, x, linear, info);
    return dx;
  });
}

/**
 * Adds to dx the gradient of x for the gradient dy of linear(x). Accumulates LoRA gradients. x, dx: (T, in),
 * dy: (T, out).
 */
export function addLinearGradients_(dx: Tensor, dy: Tensor, x: Tensor, linear: Linear, info: RowInfo): void {
  addInputGradient_(dx, dy, linear, info);
  addLoraGradients_(dx, dy, x, linear, info);
}

function addLoraGradients_(dx: Tensor, dy: Tensor, x: Tensor, { lora }: Linear, { place }: RowInfo): void {
  if (!lora) return;
  scope(() => {
    const inner = lora.gradB && zeros([x.shape[0]!, lora.a.shape[0]!], x); // (T, R)
    addLoraInnerGradients_({ dx, inner }, dy.mm(lora.b).mul_(lora.scale), x, lora, place);
    if (lora.gradB && inner) addProduct_(lora.gradB, dy.t(), inner, lora.scale);
  });
}

/** Adds dy W to dx, and on PLoRA rows the branch's gradient. dx: (T, in), dy: (T, out). */
export function addInputGradient_(dx: Tensor, dy: Tensor, linear: Linear, info: RowInfo): void {
  scope(() => {
    addBaseGradient_(dx, dy, linear, info.ploraRows);
    addPloraGradient_(dx, dy, linear, info);
  });
}

/** Adds p (dy[I] PB) PA to dx[I] for each range I of PLoRA rows, unless PLoRA is merged. */
function addPloraGradient_(dx: Tensor, dy: Tensor, linear: Linear, { ploraRows }: RowInfo): void {
  forEachPart(apartRows(linear, ploraRows), rowCount, (rows) => {
    const { a, b, scale } = linear.plora!;
    scope(() => rowsOf(dx, rows).addmm_(rowsOf(dy, rows).mm(b), a, { alpha: scale }));
  });
}

/**
 * Accumulates gradB += s dy^T inner, and returns s dy B, the gradient of `inner`. dy: (T, out), inner: (T, R)
 * -> (T, R).
 */
export function loraOuterGradient(dy: Tensor, inner: Tensor, { b, gradB, scale }: LoraBranch): Tensor {
  return scope(() => {
    if (gradB) addProduct_(gradB, dy.t(), inner, scale);
    return dy.mm(b).mul_(scale);
  });
}

/**
 * Adds alpha * left right to `into`: in place if the dtypes agree, else via a product that is rounded once.
 */
export function addProduct_(into: Tensor, left: Tensor, right: Tensor, alpha = 1): void {
  if (into.dtype === left.dtype) into.addmm_(left, right, { alpha });
  else scope(() => into.add_(left.mm(right).to({ dtype: into.dtype }), { alpha }));
}

/** Returns drop(x) A^T. x: (T, in) -> (T, R). */
function loraInner(x: Tensor, lora: LoraBranch, place: RowPlace): Tensor {
  if (!lora.dropout) return x.mm(lora.a.t());
  const inner = zeros([x.shape[0]!, lora.a.shape[0]!], x);
  addLoraInner_(inner, x, lora, place);
  return inner;
}

/** Adds drop(x) A^T to `inner`. x: (T, in), inner: (T, R). */
export function addLoraInner_(inner: Tensor, x: Tensor, lora: LoraBranch, place: RowPlace): void {
  forEachSeen(x, lora, place, (rows, seen) => {
    rowsOf(inner, rows).addmm_(seen, lora.a.t());
  });
}

/**
 * Adds drop(x) A^T to `inner` if `inner` is given, dInner^T drop(x) to gradA, and drop'(dInner A) to dx. dx,
 * x: (T, in); inner, dInner: (T, R).
 */
export function addLoraInnerGradients_(
  { dx, inner }: { dx: Tensor; inner?: Tensor | undefined },
  dInner: Tensor,
  x: Tensor,
  lora: LoraBranch,
  place: RowPlace,
): void {
  const { a, gradA, dropout, firstInput: column = 0 } = lora;
  forEachSeen(x, lora, place, (rows, seen) => {
    if (inner) rowsOf(inner, rows).addmm_(seen, a.t());
    if (gradA) addProduct_(gradA, rowsOf(dInner, rows).t(), seen);
  });
  if (!dropout) dx.addmm_(dInner, a);
  else
    forEachDropoutTile(x, dropout, place, (rows, rowsPlace) => {
      addDropped_(rowsOf(dx, rows), rowsOf(dInner, rows).mm(a), dropout, { place: rowsPlace, column });
    });
}

/** Calls body for tiles of x's rows with `seen`, the input of LoRA: drop(x). */
function forEachSeen(
  x: Tensor,
  { dropout, firstInput: column = 0 }: LoraBranch,
  place: RowPlace,
  body: (rows: Rows, seen: Tensor) => void,
): void {
  forEachDropoutTile(x, dropout, place, (rows, rowsPlace) => {
    const input = rowsOf(x, rows);
    body(rows, dropout ? dropped(input, dropout, { place: rowsPlace, column }) : input);
  });
}
