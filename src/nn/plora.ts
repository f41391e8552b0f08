/**
 * A frozen weight W with PLoRA, a low-rank branch on some of the rows: p x PA^T PB^T on image rows; where it is folded into W, -p x PA^T PB^T
 * on all others. Where a visit has enough of them, the branch is added to a copy of the weight, M = W + p PB PA: its rows are multiplied with
 * M, all others with W, and the branch costs no more products of its own.
 */
import { empty } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { FLOPS_PER_NUMBER } from "./anyCpu.ts";
import { multipliesFp8 } from "./frozen/fp8.ts";
import {
  addFrozenGradient_,
  addFrozenProduct_,
  copiedValues,
  denseMatrix,
  type FrozenMatrix,
  frozenGradient,
  frozenProduct,
  frozenShape,
} from "./frozen/frozen.ts";
import { forEachPart, type Rows, rowCount, rowsBetween, rowsOf } from "./rows.ts";

/** Whether the branch is multiplied apart, or merged into a copy of the weight where that takes fewer FLOPs. */
export type PloraWay = "apart" | "merged";

/** scale * (x a^T) b^T. a: (rank, in), b: (out, rank). */
export interface Plora {
  a: Tensor;
  b: Tensor;
  scale: number;
}

/** weight: (out, in); plora: where the model has such a branch; merged: M, (out, in), where it has been made. */
export interface FrozenLinear {
  weight: FrozenMatrix;
  plora?: Plora | undefined;
  merged?: Tensor | undefined;
}

/** Rows of a segment as a visit of a linear sees them. */
export interface Visit {
  plora: PloraWay;
  /** Those that the branch acts on. */
  ploraRows: readonly Rows[];
  /** Products that the visit makes with each row. */
  products: number;
}

/**
 * FLOPs that merging costs for each number of the weight, besides the product: four passes of memory over it (read,
 * copied, read, written).
 */
const MERGE_FLOPS = 4 * FLOPS_PER_NUMBER;

/** The linear for one visit, merged where that pays; M, of the working set, belongs to the open scope. */
export function mergedWherePays<L extends FrozenLinear>(linear: L, visit: Visit): L {
  const { weight, plora } = linear;
  if (!plora || visit.plora !== "merged" || !mergePays(weight, plora, visit)) return linear;
  return { ...linear, merged: merge(weight, plora) };
}

/** FLOPs of the branch apart against those of merging it; a card that multiplies the base in fp8 is faster with that. */
function mergePays(weight: FrozenMatrix, plora: Plora, { ploraRows, products }: Visit): boolean {
  if (weight.precision === "fp8" && multipliesFp8(weight, plora.a)) return false;
  const [outs, ins] = frozenShape(weight) as [number, number];
  const rows = countOf(ploraRows);
  const savedFlops = 2 * plora.a.shape[0]! * (products * rows * (outs + ins) - outs * ins);
  return savedFlops > MERGE_FLOPS * outs * ins;
}

function merge(weight: FrozenMatrix, plora: Plora): Tensor {
  return category("workingSet", () => scope(() => foldInto_(copiedValues(weight, plora.a), plora)));
}

/** weight += p PB PA, rounded once. weight: (out, in). */
export function foldInto_(weight: Tensor, { a, b, scale }: Plora): Tensor {
  return weight.addmm_(b, a, { alpha: scale });
}

/** Returns what folding adds to some rows of a weight that is quantised on loading: (r, in) in float32. */
export function foldedPart({ a, b, scale }: Plora, rows: Rows): Tensor {
  return scope(() => rowsOf(b, rows).mm(a).mul_(scale).to({ dtype: "float32" }));
}

/** Returns the linear with its weight folded: on other rows the branch subtracts what folding added. */
export function afterFolding(plora: Plora): Plora {
  return { ...plora, scale: -plora.scale };
}

/** The rows whose branch is multiplied apart: none without a branch. */
export function apartRows({ plora, merged }: FrozenLinear, ploraRows: readonly Rows[]): readonly Rows[] {
  return !plora || merged ? [] : ploraRows;
}

/** x W^T, and x M^T of the branch's rows where merged. x: (T, in) -> (T, out). */
export function baseProduct(x: Tensor, linear: FrozenLinear, ploraRows: readonly Rows[]): Tensor {
  const { weight, merged } = linear;
  if (!merged) return frozenProduct(x, weight);
  return scope(() => {
    const { dtype, device } = x;
    const y = empty([x.shape[0]!, merged.shape[0]!], { dtype, device }); // (T, out)
    byRows_(y, x, { ...linear, merged }, ploraRows, addFrozenProduct_, 0);
    return y;
  });
}

/** into = beta into + x W^T, and x M^T of the branch's rows where merged. x: (T, in), into: (T, out). */
export function addBaseProduct_(
  into: Tensor,
  x: Tensor,
  linear: FrozenLinear,
  ploraRows: readonly Rows[],
  beta: 0 | 1 = 1,
): void {
  const { weight, merged } = linear;
  if (merged) byRows_(into, x, { weight, merged }, ploraRows, addFrozenProduct_, beta);
  else addFrozenProduct_(into, x, weight, beta);
}

/** dy W, and dy M of the branch's rows where merged. dy: (T, out) -> (T, in). */
export function baseGradient(dy: Tensor, linear: FrozenLinear, ploraRows: readonly Rows[]): Tensor {
  const { weight, merged } = linear;
  if (!merged) return frozenGradient(dy, weight);
  return scope(() => {
    const { dtype, device } = dy;
    const dx = empty([dy.shape[0]!, merged.shape[1]!], { dtype, device }); // (T, in)
    byRows_(dx, dy, { weight, merged }, ploraRows, addFrozenGradient_, 0);
    return dx;
  });
}

/** into += dy W, and dy M of the branch's rows where merged. dy: (T, out), into: (T, in). */
export function addBaseGradient_(
  into: Tensor,
  dy: Tensor,
  linear: FrozenLinear,
  ploraRows: readonly Rows[],
): void {
  const { weight, merged } = linear;
  if (merged) byRows_(into, dy, { weight, merged }, ploraRows, addFrozenGradient_, 1);
  else addFrozenGradient_(into, dy, weight);
}

/** into = beta into + left times the matrix, whichever way. */
type Multiply = (into: Tensor, left: Tensor, matrix: FrozenMatrix, beta: 0 | 1) => void;

/** The branch's rows with M, all others with W. */
function byRows_(
  into: Tensor,
  left: Tensor,
  { weight, merged }: { weight: FrozenMatrix; merged: Tensor },
  ploraRows: readonly Rows[],
  multiply: Multiply,
  beta: 0 | 1,
): void {
  const kinds = [
    { parts: ploraRows, matrix: denseMatrix(merged) },
    { parts: rowsBetween(ploraRows, left.shape[0]!), matrix: weight },
  ];
  for (const { parts, matrix } of kinds) {
    scope(() => {
      if (mostParts === undefined && gatherPays(parts, into, left, beta)) {
        gathered_(into, left, matrix, parts, multiply, beta);
        return;
      }
      makeRoomToGather(into, left, beta);
      forEachPart(parts, rowCount, (rows) => {
        scope(() => multiply(rowsOf(into, rows), rowsOf(left, rows), matrix, beta));
      });
    });
  }
}

/** In how many parts rows of one kind may come, while a plan of many micro-batches runs. */
let mostParts: number | undefined;

/**
 * Runs the body as a plan of many micro-batches whose rows of one kind come in up to so many parts: each product then has the
 * room that the largest of their gathered copies needs, wherever the rows lie in this one.
 */
export function withPartsUpTo<T>(parts: number | undefined, body: () => T): T {
  const before = mostParts;
  mostParts = parts;
  try {
    return body();
  } finally {
    mostParts = before;
  }
}

/** Allocates copies of as many rows as gathering pays for. */
function makeRoomToGather(into: Tensor, left: Tensor, beta: 0 | 1): void {
  if (mostParts === undefined) return;
  const [rows, outs, ins] = [left.shape[0]!, into.shape[1]!, left.shape[1]!];
  const paying = Math.ceil(((mostParts - 1) * outs * ins) / (2 * (ins + (1 + beta) * outs))) - 1;
  const gathered = { start: 0, end: Math.min(rows, paying) };
  if (gathered.end <= 0) return;
  roomFor(into, [gathered]);
  roomFor(left, [gathered]);
}

/** Whether copying rows that lie apart, read and written, moves fewer numbers than reading the weight again for each part. */
function gatherPays(parts: readonly Rows[], into: Tensor, left: Tensor, beta: 0 | 1): boolean {
  const [outs, ins] = [into.shape[1]!, left.shape[1]!];
  const copied = 2 * countOf(parts) * (ins + (1 + beta) * outs);
  return copied < (parts.length - 1) * outs * ins;
}

function gathered_(
  into: Tensor,
  left: Tensor,
  matrix: FrozenMatrix,
  parts: readonly Rows[],
  multiply: Multiply,
  beta: 0 | 1,
): void {
  const rows = beta === 1 ? gather(into, parts) : roomFor(into, parts);
  multiply(rows, gather(left, parts), matrix, beta);
  forEachGathered(parts, (from, to) => void rowsOf(into, from).copy_(rowsOf(rows, to)));
}

/** Room for these rows of x one behind the other. */
function roomFor(x: Tensor, parts: readonly Rows[]): Tensor {
  const { dtype, device } = x;
  return empty([countOf(parts), x.shape[1]!], { dtype, device });
}

function countOf(parts: readonly Rows[]): number {
  return parts.reduce((sum, rows) => sum + rowCount(rows), 0);
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
