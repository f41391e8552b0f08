/**
 * A frozen matrix W, (out, in), in one of the precisions of the base, and the four products that the step makes with it. Whoever holds
 * one calls these functions and does not ask which precision it is. A quantised matrix is read back into a scratch, a tile at a time:
 * rows for products, columns for gradients, so that no sum is rounded between tiles.
 */
import { empty } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { columnsOf, forEachPart, type Rows, rowCount, rowsOf, tilesOf } from "../rows.ts";
import { fp8Gradient_, fp8Product_, multipliesFp8 } from "./fp8.ts";
import { fusedProduct_, multipliesFused } from "./fused.ts";
import {
  columnGranularity,
  dequantizeInto_,
  type QuantizedMatrix,
  quantizedColumns,
  quantizedRows,
  quantizedShape,
} from "./quantized.ts";

/** weight: (out, in), in the compute dtype. */
export interface DenseMatrix {
  precision: "dense";
  weight: Tensor;
}

export type FrozenMatrix = DenseMatrix | QuantizedMatrix;

/** Elements of the scratch at most, 16 MiB in bf16: large enough for products to run at full speed. */
export const SCRATCH_ELEMENTS = 2 ** 23;

/** A matrix that is held as it is. */
export function denseMatrix(weight: Tensor): DenseMatrix {
  return { precision: "dense", weight };
}

/** x W^T. x: (T, in) -> (T, out). */
export function frozenProduct(x: Tensor, matrix: FrozenMatrix): Tensor {
  if (matrix.precision === "dense") return x.mm(matrix.weight.t());
  const y = empty([x.shape[0]!, quantizedShape(matrix)[0]], alike(x)); // (T, out)
  quantizedProduct_(y, x, matrix, 0);
  return y;
}

/** into = beta into + x W^T. x: (T, in), into: (T, out). */
export function addFrozenProduct_(into: Tensor, x: Tensor, matrix: FrozenMatrix, beta: 0 | 1 = 1): void {
  if (matrix.precision === "dense") into.addmm_(x, matrix.weight.t(), { beta });
  else quantizedProduct_(into, x, matrix, beta);
}

/** x W^T + b. x: (..., in), contiguous; bias: (out) -> (..., out). */
export function frozenAffine(x: Tensor, matrix: FrozenMatrix, bias: Tensor): Tensor {
  if (matrix.precision === "dense") return x.linear(matrix.weight, { bias });
  return scope(() => {
    const [outs, ins] = quantizedShape(matrix);
    const y = empty([...x.shape.slice(0, -1), outs], alike(x)); // (..., out)
    quantizedProduct_(y.view([-1, outs]).copy_(bias), x.view([-1, ins]), matrix, 1);
    return y;
  });
}

/** dy W, the gradient of x for the gradient dy of x W^T. dy: (T, out) -> (T, in). */
export function frozenGradient(dy: Tensor, matrix: FrozenMatrix): Tensor {
  if (matrix.precision === "dense") return dy.mm(matrix.weight);
  const dx = empty([dy.shape[0]!, quantizedShape(matrix)[1]], alike(dy)); // (T, in)
  quantizedGradient_(dx, dy, matrix, 0);
  return dx;
}

/** into = beta into + dy W. dy: (T, out), into: (T, in). */
export function addFrozenGradient_(into: Tensor, dy: Tensor, matrix: FrozenMatrix, beta: 0 | 1 = 1): void {
  if (matrix.precision === "dense") into.addmm_(dy, matrix.weight, { beta });
  else quantizedGradient_(into, dy, matrix, beta);
}

/** The part that makes some of the outputs; shares memory. */
export function frozenRows(matrix: FrozenMatrix, rows: Rows): FrozenMatrix {
  return matrix.precision === "dense"
    ? denseMatrix(rowsOf(matrix.weight, rows))
    : quantizedRows(matrix, rows);
}

/** The part that reads some of the inputs; shares memory. */
export function frozenColumns(matrix: FrozenMatrix, columns: Rows): FrozenMatrix {
  return matrix.precision === "dense"
    ? denseMatrix(columnsOf(matrix.weight, columns))
    : quantizedColumns(matrix, columns);
}

/** Some rows as numbers, in their order; indices: (n) -> (n, in). */
export function frozenGather(matrix: FrozenMatrix, indices: Tensor, like: Pick<Tensor, "dtype">): Tensor {
  if (matrix.precision === "dense") return matrix.weight.indexSelect(0, indices);
  if (matrix.precision === "nf4") throw new Error("rows of an NF4 matrix can't be gathered");
  return scope(() => {
    const { codes, scales } = matrix;
    const picked = {
      ...matrix,
      codes: codes.indexSelect(0, indices),
      scales: scales.indexSelect(0, indices),
    };
    return frozenValues(picked, like);
  });
}

/** [out, in]. */
export function frozenShape(matrix: FrozenMatrix): readonly number[] {
  return matrix.precision === "dense" ? matrix.weight.shape : quantizedShape(matrix);
}

/** All of it as numbers, (out, in); a dense one as it is, whatever its dtype. */
export function frozenValues(
  matrix: FrozenMatrix,
  { dtype }: Pick<Tensor, "dtype"> = { dtype: "float32" },
): Tensor {
  if (matrix.precision === "dense") return matrix.weight;
  const { codes } = matrix;
  const values = empty(quantizedShape(matrix), { dtype, device: codes.device });
  dequantizeInto_(values, matrix);
  return values;
}

/** All of it as numbers of a dtype, that of a dense one's weight; not its memory. */
export function copiedValues(matrix: FrozenMatrix, like: Pick<Tensor, "dtype">): Tensor {
  return matrix.precision === "dense" ? matrix.weight.clone() : frozenValues(matrix, like);
}

/** ||W - matrix|| / ||W||, some rows at a time; 0 for a matrix of zeros. source: W, (out, in), wherever it lies. */
export function relativeError(source: Tensor, matrix: QuantizedMatrix): number {
  const [rows, columns] = quantizedShape(matrix);
  const sums = tilesOf(rows, Math.max(1, Math.floor(SCRATCH_ELEMENTS / 4 / columns))).map((tile) =>
    scope(() => {
      const values = frozenValues(quantizedRows(matrix, tile));
      const wanted = rowsOf(source, tile).to({ dtype: "float32", device: values.device });
      return { error: sumOfSquares(values.sub_(wanted)), all: sumOfSquares(wanted) };
    }),
  );
  const total = (part: "error" | "all"): number => sums.reduce((sum, each) => sum + each[part], 0);
  return total("all") === 0 ? 0 : Math.sqrt(total("error") / total("all"));
}

function sumOfSquares(x: Tensor): number {
  return scope(() => x.square().sum().item());
}

/** into = beta into + x W^T, some of the outputs at a time. */
function quantizedProduct_(into: Tensor, x: Tensor, matrix: QuantizedMatrix, beta: 0 | 1): void {
  if (matrix.precision === "fp8" && multipliesFp8(matrix, x)) {
    fp8Product_(into, x, matrix, beta);
    return;
  }
  if (multipliesFused(matrix, x)) {
    fusedProduct_(into, x, matrix, beta);
    return;
  }
  const [outs, ins] = quantizedShape(matrix);
  const tiles = scratchTiles(outs, ins, 1);
  scope(() => {
    const scratch = scratchFor(tiles, ins, x);
    forEachPart(tiles, rowCount, (tile) => {
      scope(() => {
        const weight = filledScratch(scratch, quantizedRows(matrix, tile)); // (tile, in)
        columnsOf(into, tile).addmm_(x, weight.t(), { beta });
      });
    });
  });
}

/** into = beta into + dy W, some of the inputs at a time. */
function quantizedGradient_(into: Tensor, dy: Tensor, matrix: QuantizedMatrix, beta: 0 | 1): void {
  if (matrix.precision === "fp8" && multipliesFp8(matrix, dy)) {
    fp8Gradient_(into, dy, matrix, beta);
    return;
  }
  const [outs, ins] = quantizedShape(matrix);
  const tiles = scratchTiles(ins, outs, columnGranularity(matrix));
  scope(() => {
    const scratch = scratchFor(tiles, outs, dy);
    forEachPart(tiles, rowCount, (tile) => {
      scope(() => {
        const weight = filledScratch(scratch, quantizedColumns(matrix, tile)); // (out, tile)
        columnsOf(into, tile).addmm_(dy, weight, { beta });
      });
    });
  });
}

/** Rows or columns in tiles of about the same width, a multiple of `granularity` but for the last, each of which the scratch holds. */
export function scratchTiles(width: number, depth: number, granularity: number): Rows[] {
  const most = Math.floor(SCRATCH_ELEMENTS / depth / granularity) * granularity;
  const count = Math.ceil(width / Math.max(granularity, most));
  return tilesOf(width, Math.ceil(width / count / granularity) * granularity);
}

function scratchFor(tiles: readonly Rows[], depth: number, like: Tensor): Tensor {
  const { start, end } = tiles[0]!;
  return empty([(end - start) * depth], alike(like));
}

/** The matrix's values at the beginning of a scratch, in its shape. */
function filledScratch(scratch: Tensor, matrix: QuantizedMatrix): Tensor {
  const [rows, columns] = quantizedShape(matrix);
  const values = scratch.narrow(0, 0, rows * columns).view([rows, columns]);
  dequantizeInto_(values, matrix);
  return values;
}

function alike({ dtype, device }: Tensor): Pick<Tensor, "dtype" | "device"> {
  return { dtype, device };
}
