/**
 * A frozen weight W with PLoRA, its low-rank branch on image rows. Where a visit has enough of them, the branch is added to a copy of the
 * weight, M = W + p PB PA: image rows are multiplied with M, all others with W, and the branch costs no more products of its own.
 */
import { empty } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import {
  addFrozenGradient_,
  addFrozenProduct_,
  copiedValues,
  denseMatrix,
  type FrozenMatrix,
  frozenGradient,
  frozenProduct,
  frozenShape,
} from "./frozen.ts";
import { multipliesFp8 } from "./quantizedFp8.ts";
import { forEachPart, type Rows, rowCount, rowsBetween, rowsOf } from "./rows.ts";

/** Whether image rows' branch is multiplied apart, or merged into a copy of the weight where that takes fewer FLOPs. */
export type PloraWay = "apart" | "merged";

/** weight: (out, in); plora.a: (rank, in), plora.b: (out, rank); merged: M, (out, in), where it has been made. */
export interface FrozenLinear {
  weight: FrozenMatrix;
  plora: { a: Tensor; b: Tensor; scale: number };
  merged?: Tensor | undefined;
}

/** Rows of a segment as a visit of a linear sees them. */
export interface Visit {
  plora: PloraWay;
  imageRows: readonly Rows[];
  /** Products that the visit makes with each row. */
  products: number;
}

/**
 * What merging costs for each number of the weight beside its product: four passes of memory over it (read, copied, read, written), at the
 * 64 FLOPs that pass while a number of 16 bits comes from a CPU's memory.
 */
const MERGE_FLOPS = 4 * 64;

/** The linear for one visit, merged where that pays; M, of the working set, belongs to the open scope. */
export function mergedWherePays<L extends FrozenLinear>(linear: L, visit: Visit): L {
  return visit.plora === "merged" && mergePays(linear, visit) ? { ...linear, merged: merge(linear) } : linear;
}

/** FLOPs of the branch apart against those of merging it; a card that multiplies the base in fp8 is faster with that. */
function mergePays({ weight, plora }: FrozenLinear, { imageRows, products }: Visit): boolean {
  if (weight.precision === "fp8" && multipliesFp8(weight, plora.a)) return false;
  const [outs, ins] = frozenShape(weight) as [number, number];
  const rows = imageRows.reduce((sum, each) => sum + rowCount(each), 0);
  const savedFlops = 2 * plora.a.shape[0]! * (products * rows * (outs + ins) - outs * ins);
  return savedFlops > MERGE_FLOPS * outs * ins;
}

function merge({ weight, plora: { a, b, scale } }: FrozenLinear): Tensor {
  return category("workingSet", () => scope(() => copiedValues(weight, a).addmm_(b, a, { alpha: scale })));
}

/** The image rows whose branch is multiplied apart. */
export function apartRows({ merged }: FrozenLinear, imageRows: readonly Rows[]): readonly Rows[] {
  return merged ? [] : imageRows;
}

/** x W^T, and x M^T of image rows where merged. x: (T, in) -> (T, out). */
export function baseProduct(x: Tensor, linear: FrozenLinear, imageRows: readonly Rows[]): Tensor {
  const { weight, merged } = linear;
  if (!merged) return frozenProduct(x, weight);
  return scope(() => {
    const { dtype, device } = x;
    const y = empty([x.shape[0]!, merged.shape[0]!], { dtype, device }); // (T, out)
    byRows_(y, x, { ...linear, merged }, imageRows, addFrozenProduct_, 0);
    return y;
  });
}

/** into += x W^T, and x M^T of image rows where merged. x: (T, in), into: (T, out). */
export function addBaseProduct_(
  into: Tensor,
  x: Tensor,
  linear: FrozenLinear,
  imageRows: readonly Rows[],
): void {
  const { weight, merged } = linear;
  if (merged) byRows_(into, x, { weight, merged }, imageRows, addFrozenProduct_, 1);
  else addFrozenProduct_(into, x, weight);
}

/** dy W, and dy M of image rows where merged. dy: (T, out) -> (T, in). */
export function baseGradient(dy: Tensor, linear: FrozenLinear, imageRows: readonly Rows[]): Tensor {
  const { weight, merged } = linear;
  if (!merged) return frozenGradient(dy, weight);
  return scope(() => {
    const { dtype, device } = dy;
    const dx = empty([dy.shape[0]!, merged.shape[1]!], { dtype, device }); // (T, in)
    byRows_(dx, dy, { weight, merged }, imageRows, addFrozenGradient_, 0);
    return dx;
  });
}

/** into += dy W, and dy M of image rows where merged. dy: (T, out), into: (T, in). */
export function addBaseGradient_(
  into: Tensor,
  dy: Tensor,
  linear: FrozenLinear,
  imageRows: readonly Rows[],
): void {
  const { weight, merged } = linear;
  if (merged) byRows_(into, dy, { weight, merged }, imageRows, addFrozenGradient_, 1);
  else addFrozenGradient_(into, dy, weight);
}

/** into = beta into + left times the matrix, whichever way. */
type Multiply = (into: Tensor, left: Tensor, matrix: FrozenMatrix, beta: 0 | 1) => void;

/** Image rows picture by picture; all others at once, gathered where they lie apart, for each product reads the whole weight. */
function byRows_(
  into: Tensor,
  left: Tensor,
  { weight, merged }: { weight: FrozenMatrix; merged: Tensor },
  imageRows: readonly Rows[],
  multiply: Multiply,
  beta: 0 | 1,
): void {
  const otherRows = rowsBetween(imageRows, left.shape[0]!);
  forEachPart(imageRows, rowCount, (rows) => {
    scope(() => multiply(rowsOf(into, rows), rowsOf(left, rows), denseMatrix(merged), beta));
  });
  if (otherRows.length === 0) return;
  scope(() => {
    if (otherRows.length === 1) {
      multiply(rowsOf(into, otherRows[0]!), rowsOf(left, otherRows[0]!), weight, beta);
      return;
    }
    const rows = beta === 1 ? gather(into, otherRows) : roomFor(into, otherRows);
    multiply(rows, gather(left, otherRows), weight, beta);
    forEachGathered(otherRows, (from, to) => void rowsOf(into, from).copy_(rowsOf(rows, to)));
  });
}

/** Room for these rows of x one behind the other. */
function roomFor(x: Tensor, parts: readonly Rows[]): Tensor {
  const { dtype, device } = x;
  const count = parts.reduce((sum, rows) => sum + rowCount(rows), 0);
  return empty([count, x.shape[1]!], { dtype, device });
}

/** Copies, for they run in all threads where `cat` runs in one. */
function gather(x: Tensor, parts: readonly Rows[]): Tensor {
  const rows = roomFor(x, parts);
  forEachGathered(parts, (from, to) => void rowsOf(rows, to).copy_(rowsOf(x, from)));
  return rows;
}

/** Calls body with the rows of each part, and with where they are once gathered. */
function forEachGathered(parts: readonly Rows[], body: (from: Rows, to: Rows) => void): void {
  let start = 0;
  const places = parts.map((from) => {
    start += rowCount(from);
    return { from, to: { start: start - rowCount(from), end: start } };
  });
  forEachPart(
    places,
    ({ from }) => rowCount(from),
    ({ from, to }) => {
      scope(() => body(from, to));
    },
  );
}
