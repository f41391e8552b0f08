/**
 * A frozen linear with its two low-rank branches: y = x W^T + s drop(x) A^T B^T on all rows (LoRA) + p x PA^T PB^T on the rows of the
 * branch (PLoRA), or x M^T there, W and PLoRA merged (plora.ts). LoRA is never merged: what steps add to it would be lost in bf16's
 * rounding of W.
 * Forward and backward are written out and accumulate in place; names as in docs/architecture.md.
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

/** a: (R, in), b: (out, R) in the compute dtype; gradients of the same shapes, absent in evaluation. */
export interface LoraBranch {
  a: Tensor;
  b: Tensor;
  gradA: Tensor | undefined;
  gradB: Tensor | undefined;
  scale: number;
  dropout: Dropout | undefined;
  /** Which of the linear's inputs a's first column reads, where it is not the first. */
  firstInput?: number;
}

/** A frozen weight and PLoRA, and what is trained. */
export interface Linear extends FrozenLinear {
  lora: LoraBranch | undefined;
}

/** Which rows of the micro-batch are at hand, and which of them (counted from the first) are rows of the branch. */
export interface RowInfo {
  place: RowPlace;
  ploraRows: readonly Rows[];
}

/**
 * Inner products of the low-rank branches. lora: (T, R); plora: (|I|, rank) for each range of branch rows,
 * none if PLoRA is merged.
 */
export interface LowRank {
  lora: Tensor | undefined;
  plora: Tensor[];
}

/** The inner products of the low-rank branches. x: (T, in). */
export function lowRank(x: Tensor, linear: Linear, info: RowInfo): LowRank {
  return {
    lora: linear.lora && loraInner(x, linear.lora, info.place),
    plora: apartRows(linear, info.ploraRows).map((rows) => rowsOf(x, rows).mm(linear.plora!.a.t())),
  };
}

/** Room for the inner products of T rows, filled with zeros; like: any tensor of the compute dtype. */
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

/** The inner products of some of the rows, as views; ploraRows: of all rows. */
export function lowRankRows({ lora, plora }: LowRank, ploraRows: readonly Rows[], rows: Rows): LowRank {
  return {
    lora: lora && rowsOf(lora, rows),
    plora: plora.flatMap((inner, index) =>
      clipRows([rows], ploraRows[index]!).map((shared) => rowsOf(inner, shared)),
    ),
  };
}

/** The part of a linear that makes some of its outputs: rows of weight, merged weight, plora.b and lora.b. */
export function outputSlice(linear: Linear, rows: Rows): Linear {
  const cut = (x: Tensor): Tensor => rowsOf(x, rows);
  const { weight, plora, merged, lora } = linear;
  return {
    weight: frozenRows(weight, rows),
    plora: plora && { ...plora, b: cut(plora.b) },
    merged: merged && cut(merged),
    lora: lora && { ...lora, b: cut(lora.b), gradB: lora.gradB && cut(lora.gradB) },
  };
}

/** The part of a linear that reads some of its inputs: columns of weight, merged weight, plora.a and lora.a. */
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

/** y = linear(x). x: (T, in) -> (T, out). */
export function linearForward(x: Tensor, linear: Linear, info: RowInfo): Tensor {
  return scope(() => {
    const y = baseProduct(x, linear, info.ploraRows); // (T, out)
    addLowRank_(y, linear, info, lowRank(x, linear, info));
    return y;
  });
}

/** into += linear(x). x: (T, in), into: (T, out). */
export function addLinear_(into: Tensor, x: Tensor, linear: Linear, info: RowInfo): void {
  scope(() => {
    addBaseProduct_(into, x, linear, info.ploraRows);
    addLowRank_(into, linear, info, lowRank(x, linear, info));
  });
}

/** into = linear(x), whose `inner` is lowRank(x). x: (T, in), into: (T, out). */
export function linearInto_(into: Tensor, x: Tensor, linear: Linear, info: RowInfo, inner: LowRank): void {
  scope(() => {
    addBaseProduct_(into, x, linear, info.ploraRows, 0);
    addLowRank_(into, linear, info, inner);
  });
}

/** y += the outer products of the low-rank branches. y: (T, out). */
export function addLowRank_(y: Tensor, linear: Linear, { ploraRows }: RowInfo, inner: LowRank): void {
  const { plora, lora } = linear;
  scope(() => {
    if (lora && inner.lora) y.addmm_(inner.lora, lora.b.t(), { alpha: lora.scale });
    forEachPart(apartRows(linear, ploraRows), rowCount, (rows, part) => {
      rowsOf(y, rows).addmm_(inner.plora[part]!, plora!.b.t(), { alpha: plora!.scale });
    });
  });
}

/** The gradient of x, (T, in), for the gradient dy, (T, out), of linear(x); LoRA gradients accumulate. x: (T, in). */
export function linearBackward(dy: Tensor, x: Tensor, linear: Linear, info: RowInfo): Tensor {
  return scope(() => {
    const dx = baseGradient(dy, linear, info.ploraRows); // (T, in)
    addPloraGradient_(dx, dy, linear, info);
    addLoraGradients_(dx, dy, x, linear, info);
    return dx;
  });
}

/** dx += the gradient of x for the gradient dy of linear(x); LoRA gradients accumulate. x, dx: (T, in), dy: (T, out). */
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

/** dx += dy W, and the PLoRA branch's on its rows. dx: (T, in), dy: (T, out). */
export function addInputGradient_(dx: Tensor, dy: Tensor, linear: Linear, info: RowInfo): void {
  scope(() => {
    addBaseGradient_(dx, dy, linear, info.ploraRows);
    addPloraGradient_(dx, dy, linear, info);
  });
}

/** dx[I] += p (dy[I] PB) PA for each range I of rows of the branch, where PLoRA is not merged. */
function addPloraGradient_(dx: Tensor, dy: Tensor, linear: Linear, { ploraRows }: RowInfo): void {
  forEachPart(apartRows(linear, ploraRows), rowCount, (rows) => {
    const { a, b, scale } = linear.plora!;
    scope(() => rowsOf(dx, rows).addmm_(rowsOf(dy, rows).mm(b), a, { alpha: scale }));
  });
}

/** Accumulates gradB = s dy^T inner and returns the gradient s dy B of `inner`. dy: (T, out), inner: (T, R) -> (T, R). */
export function loraOuterGradient(dy: Tensor, inner: Tensor, { b, gradB, scale }: LoraBranch): Tensor {
  return scope(() => {
    if (gradB) addProduct_(gradB, dy.t(), inner, scale);
    return dy.mm(b).mul_(scale);
  });
}

/** into += alpha * left right: in place where the dtypes agree, else the product is rounded once. */
export function addProduct_(into: Tensor, left: Tensor, right: Tensor, alpha = 1): void {
  if (into.dtype === left.dtype) into.addmm_(left, right, { alpha });
  else scope(() => into.add_(left.mm(right).to({ dtype: into.dtype }), { alpha }));
}

/** drop(x) A^T. x: (T, in) -> (T, R). */
function loraInner(x: Tensor, lora: LoraBranch, place: RowPlace): Tensor {
  if (!lora.dropout) return x.mm(lora.a.t());
  const inner = zeros([x.shape[0]!, lora.a.shape[0]!], x);
  addLoraInner_(inner, x, lora, place);
  return inner;
}

/** inner += drop(x) A^T. x: (T, in), inner: (T, R). */
export function addLoraInner_(inner: Tensor, x: Tensor, lora: LoraBranch, place: RowPlace): void {
  forEachSeen(x, lora, place, (rows, seen) => {
    rowsOf(inner, rows).addmm_(seen, lora.a.t());
  });
}

/**
 * Adds drop(x) A^T to `inner` where it is asked for, dInner^T drop(x) to gradA, and drop'(dInner A) to dx. dx, x: (T, in), inner,
 * dInner: (T, R).
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

/** Calls body for x's rows, as many at a time as is good, with what LoRA sees of them: drop(x). */
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
