/**
 * A frozen matrix W, (out, in), in one of the base precisions, and the four products that a step makes with
 * W. Callers do not ask for the precision. A quantised matrix is dequantised into a scratch, one tile at a
 * time: rows for products, columns for gradients. So no sum is rounded between tiles.
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

/** weight: (out, in) in the compute dtype. */
export interface DenseMatrix {
  precision: "dense";
  weight: Tensor;
}

export type FrozenMatrix = DenseMatrix | QuantizedMatrix;

/** Largest number of elements in the scratch, 16 MiB in bf16: enough for products to run at full speed. */
export const SCRATCH_ELEMENTS = 2 ** 23;

/** Wraps a matrix that is not quantised. */
export function denseMatrix(weight: Tensor): DenseMatrix {
  return { precision: "dense", weight };
}

/** Returns x W^T. x: (T, in) -> (T, out). */
export function frozenProduct(x: Tensor, matrix: FrozenMatrix): Tensor {
  if (matrix.precision === "dense") return x.mm(matrix.weight.t());
  const y = empty([x.shape[0]!, quantizedShape(matrix)[0]], alike(x)); // (T, out)
  quantizedProduct_(y, x, matrix, 0);
  return y;
}

/** Computes into = beta into + x W^T. x: (T, in), into: (T, out). */
export function addFrozenProduct_(into: Tensor, x: Tensor, matrix: FrozenMatrix, beta: 0 | 1 = 1): void {
  if (matrix.precision === "dense") into.addmm_(x, matrix.weight.t(), { beta });
  else quantizedProduct_(into, x, matrix, beta);
}

/** Returns x W^T + b. x: (..., in), contiguous; bias: (out) -> (..., out). */
export function frozenAffine(x: Tensor, matrix: FrozenMatrix, bias: Tensor): Tensor {
  if (matrix.precision === "dense") return x.linear(matrix.weight, { bias });
  return scope(() => {
    const [outs, ins] = quantizedShape(matrix);
    const y = empty([...x.shape.slice(0, -1), outs], alike(x)); // (..., out)
    quantizedProduct_(y.view([-1, outs]).copy_(bias), x.view([-1, ins]), matrix, 1);
    return y;
  });
}

/** Returns dy W, the gradient of x for the gradient dy of x W^T. dy: (T, out) -> (T, in). */
export function frozenGradient(dy: Tensor, matrix: FrozenMatrix): Tensor {
  if (matrix.precision === "dense") return dy.mm(matrix.weight);
  const dx = empty([dy.shape[0]!, quantizedShape(matrix)[1]], alike(dy)); // (T, in)
  quantizedGradient_(dx, dy, matrix, 0);
  return dx;
}

/** Computes into = beta into + dy W. dy: (T, out), into: (T, in). */
export function addFrozenGradient_(into: Tensor, dy: Tensor, matrix: FrozenMatrix, beta: 0 | 1 = 1): void {
  if (matrix.precision === "dense") into.addmm_(dy, matrix.weight, { beta });
  else quantizedGradient_(into, dy, matrix, beta);
}

/** Returns the part of a matrix that computes some of the outputs; shares memory. */
export function frozenRows(matrix: FrozenMatrix, rows: Rows): FrozenMatrix {
  return matrix.precision === "dense"
    ? denseMatrix(rowsOf(matrix.weight, rows))
    : quantizedRows(matrix, rows);
}

/** Returns the part of a matrix that reads some of the inputs; shares memory. */
export function frozenColumns(matrix: FrozenMatrix, columns: Rows): FrozenMatrix {
  return matrix.precision === "dense"
    ? denseMatrix(columnsOf(matrix.weight, columns))
    : quantizedColumns(matrix, columns);
}

/** Returns some rows as numbers, in the order of indices; indices: (n) -> (n, in). */
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

/** Returns [out, in]. */
export function frozenShape(matrix: FrozenMatrix): readonly number[] {
  return matrix.precision === "dense" ? matrix.weight.shape : quantizedShape(matrix);
}

/** Returns the whole matrix as numbers, (out, in). A dense matrix is returned as it is, in its own dtype. */
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

/** Returns a copy of the whole matrix as numbers. dtype: like's; a dense matrix keeps its own. */
export function copiedValues(matrix: FrozenMatrix, like: Pick<Tensor, "dtype">): Tensor {
  return matrix.precision === "dense" ? matrix.weight.clone() : frozenValues(matrix, like);
}

/**
 * Returns ||W - matrix|| / ||W||, computed by tiles of rows; 0 if W is all zeros. source: W, (out, in), on
 * any device.
 */
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

/** Computes into = beta into + x W^T, some of the outputs at a time. */
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

/** Computes into = beta into + dy W, some of the inputs at a time. */
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

/**
 * Splits rows or columns into tiles of similar width that fit the scratch. All tiles but the last are a
 * multiple of `granularity`.
 */
export function scratchTiles(width: number, depth: number, granularity: number): Rows[] {
  const most = Math.floor(SCRATCH_ELEMENTS / depth / granularity) * granularity;
  const count = Math.ceil(width / Math.max(granularity, most));
  return tilesOf(width, Math.ceil(width / count / granularity) * granularity);
}

function scratchFor(tiles: readonly Rows[], depth: number, like: Tensor): Tensor {
  const { start, end } = tiles[0]!;
  return empty([(end - start) * depth], alike(like));
}

/** Writes the matrix's values to the start of a scratch, and returns them in the matrix's shape. */
function filledScratch(scratch: Tensor, matrix: QuantizedMatrix): Tensor {
  const [rows, columns] = quantizedShape(matrix);
  const values = scratch.narrow(0, 0, rows * columns).view([rows, columns]);
  dequantizeInto_(values, matrix);
  return values;
}

function alike({ dtype, device }: Tensor): Pick<Tensor, "dtype" | "device"> {
  return { dtype, device };
}
