/**
 * NF4 with double quantisation, as in bitsandbytes (arXiv:2305.14314). Each block of 64 numbers of the
 * row-major matrix has an absmax, and each number a 4-bit code for number / absmax. The absmax minus their
 * mean are quantised in blocks of 256: 8-bit codes of a dynamic map (arXiv:1511.04561), times the block's own
 * absmax.
 */
import { arange, cat, empty, fromArray } from "../../torch/create.ts";
import type { Device, DType } from "../../torch/dtypes.ts";
import { NF4_VALUES } from "../../torch/kernels/quantizedSources.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { columnsOf, type Rows, rowsOf, tilesOf } from "../rows.ts";
import { dynamicMap } from "./dynamicMap.ts";
import { NESTED_BLOCK, NF4_BLOCK } from "./storedNames.ts";

/** Numbers that the codes stand for: 16 quantiles of the normal distribution. */
export const NF4_MAP = Float32Array.from(NF4_VALUES);

/** A window on a matrix: `rows` and `columns` of a matrix with `width` columns. */
export interface Nf4Matrix {
  precision: "nf4";
  /** (n / 2) bytes for n numbers: two codes per byte, the first in the upper half. */
  codes: Tensor;
  /** (n / 64) 8-bit codes. */
  absmax: Tensor;
  /** (n / 64 / 256) */
  nestedAbsmax: Tensor;
  /** (256): numbers that the codes in absmax stand for. */
  nestedMap: Tensor;
  /** Mean of the absmax. */
  offset: number;
  /** (256) of 8 bytes: the two float32 numbers that a byte of `codes` stands for. */
  pairs: Tensor;
  width: number;
  rows: Rows;
  columns: Rows;
}

/**
 * device: where the quantised matrix is made; added: a summand for rows of the source, (r, in) in float32.
 */
export interface QuantizeTarget {
  device: Device;
  added?: ((rows: Rows) => Tensor) | undefined;
}

/** Quantises a matrix, (out, in), in pieces of whole blocks. */
export function quantizeNf4(source: Tensor, { device, added }: QuantizeTarget): Nf4Matrix {
  return scope(() => {
    const [rows, width] = [source.shape[0]!, source.shape[1]!];
    const matrix = emptyNf4(rows, width, (shape, dtype) => empty(shape, { dtype, device }));
    const flat = source.reshape([-1]);
    const absmax = empty([matrix.absmax.numel], { device });
    const nearest = nearestNf4(device);
    for (const { start, end } of tilesOf(flat.numel, PIECE)) {
      scope(() => {
        const stored = flat.narrow(0, start, end - start).to({ device, dtype: "float32" });
        const piece = added ? stored.add(flatPart(added, { start, end }, width)) : stored;
        const quantized = quantizeBlocks(piece, nearest, NF4_BLOCK);
        absmax.narrow(0, start / NF4_BLOCK, quantized.absmax.numel).copy_(quantized.absmax);
        const packed = packNibbles(quantized.codes);
        matrix.codes.narrow(0, start / 2, packed.numel).copy_(packed);
      });
    }
    return { ...matrix, ...quantizeAbsmax(absmax) };
  });
}

/** Returns numbers start..end of a row-major matrix with `width` columns, whose rows come from a function. */
function flatPart(rowsOfMatrix: (rows: Rows) => Tensor, { start, end }: Rows, width: number): Tensor {
  const first = Math.floor(start / width);
  const rows = rowsOfMatrix({ start: first, end: Math.ceil(end / width) });
  return rows.view([-1]).narrow(0, start - first * width, end - start);
}

/** Quantises absmax, (n / 64) in float32, to 8 bits each. */
export function quantizeAbsmax(
  absmax: Tensor,
): Pick<Nf4Matrix, "absmax" | "nestedAbsmax" | "nestedMap" | "offset"> {
  return scope(() => {
    const mean = absmax.mean();
    const map = dynamicMap("signed");
    const bounds = tensorOf(boundsOf(map), absmax.device);
    const nearest: Nearest = (x) => bounds.searchsorted(x, { outInt32: true });
    const { codes, absmax: nestedAbsmax } = quantizeBlocks(absmax.sub(mean), nearest, NESTED_BLOCK);
    const nestedMap = tensorOf(map, absmax.device);
    return { absmax: codes.to({ dtype: "uint8" }), nestedAbsmax, nestedMap, offset: mean.item() };
  });
}

/** Allocates uninitialised memory. */
export type Room = (shape: readonly number[], dtype: DType) => Tensor;

/** Allocates a matrix of these sizes, uninitialised. */
export function emptyNf4(rows: number, width: number, room: Room): Nf4Matrix {
  const blocks = Math.ceil((rows * width) / NF4_BLOCK);
  return wholeNf4(rows, width, {
    codes: room([Math.ceil((rows * width) / 2)], "uint8"),
    absmax: room([blocks], "uint8"),
    nestedAbsmax: room([Math.ceil(blocks / NESTED_BLOCK)], "float32"),
    nestedMap: room([NESTED_BLOCK], "float32"),
    offset: 0,
  });
}

/** Makes a whole matrix of these sizes from its stored parts. */
export function wholeNf4(
  rows: number,
  width: number,
  parts: Pick<Nf4Matrix, "codes" | "absmax" | "nestedAbsmax" | "nestedMap" | "offset">,
): Nf4Matrix {
  return {
    precision: "nf4",
    ...parts,
    pairs: pairTable(parts.codes.device),
    width,
    rows: { start: 0, end: rows },
    columns: { start: 0, end: width },
  };
}

/** Returns the window's numbers in float32, (rows, columns). */
export function nf4Values(matrix: Nf4Matrix): Tensor {
  return scope(() => (isAligned(matrix) ? alignedValues(matrix) : flatValues(matrix)));
}

/** Returns whether the window's rows begin and end with blocks, so that its columns can be read alone. */
export function isAligned({ width, columns }: Nf4Matrix): boolean {
  return [width, columns.start, columns.end].every((at) => at % NF4_BLOCK === 0);
}

/** Numbers quantised at once: keeps their float32 temporaries small. */
const PIECE = 2 ** 18;

/** Returns the codes, (n), of the map's nearest numbers, for numbers (n) in -1..1. */
type Nearest = (scaled: Tensor) => Tensor;

/** Returns codes (n) and absmax (n / block) of numbers (n). */
function quantizeBlocks(numbers: Tensor, nearest: Nearest, block: number): { codes: Tensor; absmax: Tensor } {
  return scope(() => {
    const whole = numbers.numel - (numbers.numel % block);
    const blocks = numbers.narrow(0, 0, whole).view([-1, block]);
    const absmax = scope(() => blocks.abs().amax({ dim: [1], keepdim: true })); // (n / block, 1)
    const scaled = blocks.mul(absmax.clamp({ min: SMALLEST }).reciprocal()).clamp_({ min: -1, max: 1 });
    const codes = nearest(scaled.view([-1]));
    if (whole === numbers.numel) return { codes, absmax: absmax.squeeze(1) };
    const rest = numbers.narrow(0, whole, numbers.numel - whole);
    const restAbsmax = rest
      .abs()
      .amax({ dim: [0], keepdim: true })
      .clamp_({ min: SMALLEST }); // (1)
    const restCodes = nearest(rest.div(restAbsmax).clamp_({ min: -1, max: 1 }));
    return { codes: cat([codes, restCodes]), absmax: cat([absmax.squeeze(1), restAbsmax]) };
  });
}

/** Absmax of a block of zeros. */
const SMALLEST = 1e-38;

/** Packs two codes per byte; (n) -> (n / 2). If n is odd, the last half byte is 7, the code of 0. */
function packNibbles(codes: Tensor): Tensor {
  return scope(() => {
    const bytes = codes.to({ dtype: "uint8" });
    const even = bytes.numel % 2 === 0 ? bytes : cat([bytes, fromArray(Uint8Array.of(7), [1], bytes)]);
    const pairs = even.view([-1, 2]);
    return pairs.select(1, 0).mul(16).add_(pairs.select(1, 1));
  });
}

/** Returns the midpoints of neighbours in float32. A number on a midpoint belongs to the lower neighbour. */
function boundsOf(map: Float32Array): Float32Array {
  return map.slice(1).map((upper, index) => Math.fround(map[index]! + upper) / 2);
}

/** Cells per unit: each cell holds at most one bound, and no bound is near a cell's edge. */
const CELLS = 32;

/**
 * Finds codes by a number's cell, and by the side of the cell's one bound: several times as fast as a search.
 */
function nearestNf4(device: Device): Nearest {
  const bounds = boundsOf(NF4_MAP);
  const edges = Array.from({ length: 2 * CELLS + 1 }, (_, cell) => cell / CELLS - 1);
  const codesBelow = edges.map((edge) => bounds.filter((bound) => bound < edge).length);
  const within = codesBelow.map((below, cell) =>
    bounds[below]! < edges[cell]! + 1 / CELLS ? bounds[below]! : Number.POSITIVE_INFINITY,
  );
  const lowest = tensorOf(Uint8Array.from(codesBelow), device);
  const bound = tensorOf(Float32Array.from(within), device);
  return (scaled) =>
    scope(() => {
      const cells = scope(() => scaled.mul(CELLS).add_(CELLS).to({ dtype: "int32" }));
      const cell = cells.clamp_({ min: 0, max: 2 * CELLS }); // NaN gets some cell, too
      const above = scaled.gt(bound.indexSelect(0, cell)); // false for NaN
      return lowest.indexSelect(0, cell).add_(above.viewDtype("uint8"));
    });
}

function tensorOf(numbers: Float32Array | Uint8Array, device: Device): Tensor {
  return fromArray(numbers, [numbers.length], { device });
}

function pairTable(device: Device): Tensor {
  const pairs = Float32Array.from(
    { length: 512 },
    (_, at) => NF4_MAP[at % 2 === 0 ? at >> 5 : (at >> 1) & 15]!,
  );
  return scope(() => fromArray(pairs, [512], { device }).viewDtype("int64"));
}

/** Dequantises by blocks of each row. The window's columns are whole blocks. */
function alignedValues(matrix: Nf4Matrix): Tensor {
  const { codes, pairs, width, rows, columns } = matrix;
  const window = cut(codes.view([-1, width / 2]), rows, scaledBy(columns, 1 / 2)); // (r, c / 2)
  const values = expandPairs(window, pairs).view([-1, NF4_BLOCK]);
  const blocks = scaledBy(columns, 1 / NF4_BLOCK);
  return values
    .mul_(blockScales(matrix, rows, blocks).view([-1, 1]))
    .view([rows.end - rows.start, columns.end - columns.start]);
}

/** Returns the absmax of blocks, (r * b), of a matrix whose rows are whole numbers of blocks. */
function blockScales(matrix: Nf4Matrix, rows: Rows, blocks: Rows): Tensor {
  const perRow = matrix.width / NF4_BLOCK;
  return scope(() => {
    const codes = cut(matrix.absmax.view([-1, perRow]), rows, blocks).reshape([-1]);
    const first = rows.start * perRow;
    const numbers = arange(first, rows.end * perRow, { dtype: "int32", device: codes.device }).view([
      -1,
      perRow,
    ]);
    const all = { start: 0, end: rows.end - rows.start };
    return absmaxOf(matrix, codes, cut(numbers, all, blocks).reshape([-1]));
  });
}

/** Dequantises the rows as one line of numbers, wherever their blocks begin. */
function flatValues(matrix: Nf4Matrix): Tensor {
  const { codes, pairs, width, rows, columns } = matrix;
  const [start, end] = [rows.start * width, rows.end * width];
  const firstByte = Math.floor(start / 2);
  const bytes = codes.narrow(0, firstByte, Math.ceil(end / 2) - firstByte);
  const values = expandPairs(bytes, pairs).narrow(0, start % 2, end - start);
  const firstBlock = Math.floor(start / NF4_BLOCK);
  const blocks = Math.ceil(end / NF4_BLOCK) - firstBlock;
  const { device } = codes;
  const numbers = arange(firstBlock, firstBlock + blocks, { dtype: "int32", device });
  const scales = absmaxOf(matrix, matrix.absmax.narrow(0, firstBlock, blocks), numbers);
  const blockOf = arange(start, end, { dtype: "int32", device }).bitwiseRightShift(6).sub_(firstBlock);
  const all = { start: 0, end: rows.end - rows.start };
  return cut(values.mul_(scales.indexSelect(0, blockOf)).view([-1, width]), all, columns);
}

/** Returns the absmax, (b), that codes stand for; numbers: (b), indexes of the blocks. */
function absmaxOf({ nestedMap, nestedAbsmax, offset }: Nf4Matrix, codes: Tensor, numbers: Tensor): Tensor {
  return scope(() => {
    const nested = nestedAbsmax.indexSelect(0, numbers.bitwiseRightShift(8));
    return nestedMap
      .indexSelect(0, codes.to({ dtype: "int32" }))
      .mul_(nested)
      .add_(offset);
  });
}

/** Returns the float32 numbers that bytes of codes stand for, two per byte. */
function expandPairs(bytes: Tensor, pairs: Tensor): Tensor {
  return scope(() => pairs.indexSelect(0, bytes.to({ dtype: "int32" }).reshape([-1])).viewDtype("float32"));
}

function cut(x: Tensor, rows: Rows, columns: Rows): Tensor {
  return columnsOf(rowsOf(x, rows), columns);
}

function scaledBy({ start, end }: Rows, factor: number): Rows {
  return { start: start * factor, end: end * factor };
}
