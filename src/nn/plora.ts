/**
 * A frozen weight W with PLoRA, a low-rank branch on some of the rows: p x PA^T PB^T on image rows. If PLoRA
 * is folded into W, the branch is -p x PA^T PB^T on all other rows.
 *
 * If a visit has enough such rows, the branch is added to a copy of the weight, M = W + p PB PA. The branch's
 * rows are then multiplied with M and all others with W, so the branch needs no products of its own.
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

/**
 * "apart": the branch is multiplied on its own; "merged": merged into a copy of the weight if that needs
 * fewer FLOPs.
 */
export type PloraWay = "apart" | "merged";

/** The branch scale * (x a^T) b^T. a: (rank, in), b: (out, rank). */
export interface Plora {
  a: Tensor;
  b: Tensor;
  scale: number;
}

/**
 * weight: (out, in); bias: (out), undefined if it has none; plora: undefined if the model has no such branch;
 * merged: M, (out, in), undefined until it is made.
 */
export interface FrozenLinear {
  weight: FrozenMatrix;
  bias?: Tensor | undefined;
  plora?: Plora | undefined;
  merged?: Tensor | undefined;
}

/** A visit: the rows of a segment, and how often a linear multiplies each row. */
export interface Visit {
  plora: PloraWay;
  /** Rows that the branch acts on. */
  ploraRows: readonly Rows[];
  /** Number of products that the visit makes with each row. */
  products: number;
}

/**
 * FLOPs of merging per number of the weight, besides the product PB PA: four passes over memory (read,
 * copied, read, written).
 */
const MERGE_FLOPS = 4 * FLOPS_PER_NUMBER;

/**
 * Returns the linear for one visit, merged if that needs fewer FLOPs. M counts as working set and belongs to
 * the open scope.
 */
export function mergedWherePays<L extends FrozenLinear>(linear: L, visit: Visit): L {
  const { weight, plora } = linear;
  if (!plora || visit.plora !== "merged" || !mergePays(weight, plora, visit)) return linear;
  return { ...linear, merged: merge(weight, plora) };
}

/**
 * Compares the FLOPs of a branch apart with the FLOPs of merging it. A card that multiplies the base in fp8
 * is faster with W in fp8 than with M.
 */
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

/** Adds p PB PA to weight, (out, in), rounded once. */
export function foldInto_(weight: Tensor, { a, b, scale }: Plora): Tensor {
  return weight.addmm_(b, a, { alpha: scale });
}

/**
 * Returns what folding adds to some rows of a weight that is quantised while it is loaded: (r, in) in
 * float32.
 */
export function foldedPart({ a, b, scale }: Plora, rows: Rows): Tensor {
  return scope(() => rowsOf(b, rows).mm(a).mul_(scale).to({ dtype: "float32" }));
}

/** Returns the branch that undoes the folding: it subtracts PLoRA on rows that must not have it. */
export function afterFolding(plora: Plora): Plora {
  return { ...plora, scale: -plora.scale };
}

/** Returns the rows whose branch is multiplied apart: none if there is no branch, or if it is merged. */
export function apartRows({ plora, merged }: FrozenLinear, ploraRows: readonly Rows[]): readonly Rows[] {
  return !plora || merged ? [] : ploraRows;
}

/** Returns x W^T, or x M^T on the branch's rows if merged. x: (T, in) -> (T, out). */
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

/** Computes into = beta into + x W^T, or x M^T on the branch's rows if merged. x: (T, in), into: (T, out). */
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

/** Returns dy W, or dy M on the branch's rows if merged. dy: (T, out) -> (T, in). */
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

/** Adds dy W to `into`, or dy M on the branch's rows if merged. dy: (T, out), into: (T, in). */
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

/** Computes into = beta into + left times the matrix, or its transpose in the forward pass. */
type Multiply = (into: Tensor, left: Tensor, matrix: FrozenMatrix, beta: 0 | 1) => void;

/** Multiplies the branch's rows with M, and all other rows with W. */
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

/**
 * Largest number of parts that rows of one kind may lie in, for a plan of many micro-batches; undefined
 * otherwise.
 */
let mostParts: number | undefined;

/**
 * Runs the body as a plan of many micro-batches, whose rows of one kind lie in up to `parts` parts. Each
 * product then allocates the largest gathered copies that it may need, wherever the rows lie in this
 * micro-batch.
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

/** Allocates copies of the largest number of rows for which gathering pays. */
function makeRoomToGather(into: Tensor, left: Tensor, beta: 0 | 1): void {
  if (mostParts === undefined) return;
  const [rows, outs, ins] = [left.shape[0]!, into.shape[1]!, left.shape[1]!];
  const paying = Math.ceil(((mostParts - 1) * outs * ins) / (2 * (ins + (1 + beta) * outs))) - 1;
  const gathered = { start: 0, end: Math.min(rows, paying) };
  if (gathered.end <= 0) return;
  roomFor(into, [gathered]);
  roomFor(left, [gathered]);
}

/**
 * Returns whether gathering rows (a read and a write of each) moves fewer numbers than reading the weight
 * again for each part.
 */
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

/** Allocates room for these rows of x, one after the other. */
function roomFor(x: Tensor, parts: readonly Rows[]): Tensor {
  const { dtype, device } = x;
  return empty([countOf(parts), x.shape[1]!], { dtype, device });
}

function countOf(parts: readonly Rows[]): number {
  return parts.reduce((sum, rows) => sum + rowCount(rows), 0);
}

/** Gathers rows by copies, since copies run in all threads and `cat` runs in one. */
function gather(x: Tensor, parts: readonly Rows[]): Tensor {
  const rows = roomFor(x, parts);
  forEachGathered(parts, (from, to) => void rowsOf(rows, to).copy_(rowsOf(x, from)));
  return rows;
}

/** Calls body with the rows of each part, and with their place in the gathered tensor. */
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
