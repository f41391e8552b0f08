/**
 * Frozen matrices, (out, in), in fewer bits than the compute dtype: quantised from full matrices, and
 * dequantised piece by piece. int8 and fp8 have a scale per output channel (row); NF4 is in nf4.ts. Values
 * are computed in float32 and rounded once, to the requested dtype.
 */
import { empty } from "../../torch/create.ts";
import type { Device } from "../../torch/dtypes.ts";
import { isFused, isOnCard } from "../../torch/kernels/fusedKernel.ts";
import { fused } from "../../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { forEachTileOf, type Rows, rowsOf, tilesOf } from "../rows.ts";
import {
  emptyNf4,
  isAligned,
  type Nf4Matrix,
  nf4Values,
  type QuantizeTarget,
  quantizeNf4,
  type Room,
} from "./nf4.ts";
import { NF4_BLOCK, type QuantizedPrecision } from "./storedNames.ts";

/** value = code * scale * unit; `most` is the code of a row's largest number. */
export const CHANNEL_FORMS = {
  int8: { dtype: "int8", most: 127, unit: 1 / 127 },
  fp8: { dtype: "float8_e4m3fn", most: 448, unit: 1 },
} as const;

/**
 * codes: (out, in); scales: (out) in float32. int8: absmax of the row, as in bitsandbytes; fp8: absmax / 448.
 */
export interface ChannelMatrix {
  precision: keyof typeof CHANNEL_FORMS;
  codes: Tensor;
  scales: Tensor;
}

export type QuantizedMatrix = ChannelMatrix | Nf4Matrix;

/**
 * Quantises a matrix, (out, in), from any device to `device`. At most one piece is there in full at a time.
 */
export function quantize(
  source: Tensor,
  precision: QuantizedPrecision,
  target: QuantizeTarget,
): QuantizedMatrix {
  if (target.device === "meta")
    return emptyQuantized([source.shape[0]!, source.shape[1]!], precision, target.device);
  return precision === "nf4" ? quantizeNf4(source, target) : quantizeChannels(source, precision, target);
}

/** Allocates a matrix of this shape with uninitialised codes, on a device or by the given function. */
export function emptyQuantized(
  [rows, columns]: readonly [number, number],
  precision: QuantizedPrecision,
  on: Device | Room,
): QuantizedMatrix {
  const room: Room = typeof on === "string" ? (shape, dtype) => empty(shape, { dtype, device: on }) : on;
  if (precision === "nf4") return emptyNf4(rows, columns, room);
  const codes = room([rows, columns], CHANNEL_FORMS[precision].dtype);
  return { precision, codes, scales: room([rows], "float32") };
}

/** Writes a matrix's values into a tensor of its shape with contiguous rows. */
export function dequantizeInto_(into: Tensor, matrix: QuantizedMatrix): void {
  const atOnce = isOnCard(into.device) || (isFused(into) && matrix.precision !== "fp8");
  if (atOnce) dequantizeAtOnce_(into, matrix);
  else dequantizeInPieces_(into, matrix);
}

function dequantizeInPieces_(into: Tensor, matrix: QuantizedMatrix): void {
  const [rows, columns] = quantizedShape(matrix);
  forEachTileOf(rows, rowsOfPiece(columns), (tile) => {
    scope(() => rowsOf(into, tile).copy_(wideValues(quantizedRows(matrix, tile))));
  });
}

/** Returns a window on rows; shares memory. */
export function quantizedRows(matrix: QuantizedMatrix, { start, end }: Rows): QuantizedMatrix {
  if (matrix.precision === "nf4") {
    const { rows } = matrix;
    return { ...matrix, rows: { start: rows.start + start, end: rows.start + end } };
  }
  const { codes, scales } = matrix;
  return { ...matrix, codes: rowsOf(codes, { start, end }), scales: rowsOf(scales, { start, end }) };
}

/** Returns a window on columns; shares memory. */
export function quantizedColumns(matrix: QuantizedMatrix, { start, end }: Rows): QuantizedMatrix {
  if (matrix.precision === "nf4") {
    const { columns } = matrix;
    return { ...matrix, columns: { start: columns.start + start, end: columns.start + end } };
  }
  return { ...matrix, codes: matrix.codes.narrow(1, start, end - start) };
}

/** Returns the window's [out, in]. */
export function quantizedShape(matrix: QuantizedMatrix): readonly [number, number] {
  if (matrix.precision === "nf4") {
    const { rows, columns } = matrix;
    return [rows.end - rows.start, columns.end - columns.start];
  }
  return [matrix.codes.shape[0]!, matrix.codes.shape[1]!];
}

/** Returns the multiple of columns that can be read without their neighbours. */
export function columnGranularity(matrix: QuantizedMatrix): number {
  if (matrix.precision !== "nf4") return 1;
  return isAligned(matrix) ? NF4_BLOCK : matrix.width;
}

/** Dequantises in one pass, without temporaries of the matrix's size. */
function dequantizeAtOnce_(into: Tensor, matrix: QuantizedMatrix): void {
  scope(() => {
    if (matrix.precision === "nf4") {
      const { codes, absmax, nestedMap, nestedAbsmax, offset, width, rows, columns } = matrix;
      const window = { offset, width, row: rows.start, column: columns.start };
      fused.dequantizeNf4([into, codes, absmax, nestedMap, nestedAbsmax], window);
      return;
    }
    const { codes, scales, precision } = matrix;
    if (precision === "int8") fused.dequantizeInt8([into, codes, scales], { unit: CHANNEL_FORMS.int8.unit });
    else into.copy_(codes).mul_(scales.unsqueeze(1)); // a 16-bit float represents the codes exactly
  });
}

function quantizeChannels(
  source: Tensor,
  precision: ChannelMatrix["precision"],
  { device, added }: QuantizeTarget,
): ChannelMatrix {
  return scope(() => {
    const { dtype, most, unit } = CHANNEL_FORMS[precision];
    const [rows, columns] = [source.shape[0]!, source.shape[1]!];
    const codes = empty([rows, columns], { dtype, device });
    const scales = empty([rows], { device });
    for (const tile of tilesOf(rows, rowsOfPiece(columns))) {
      scope(() => {
        const stored = rowsOf(source, tile).to({ device, dtype: "float32" });
        const wide = added ? stored.add(added(tile)) : stored; // (r, in)
        const absmax = scope(() => wide.abs().amax({ dim: [1], keepdim: true })); // (r, 1)
        rowsOf(scales, tile).copy_(absmax.div(most * unit).squeeze(1));
        const scaled = wide.mul(absmax.clampMin_(SMALLEST_ABSMAX).reciprocal().mul_(most));
        const rounded = precision === "int8" ? scaled.round() : scaled; // fp8 rounds when it is copied
        rowsOf(codes, tile).copy_(rounded.clamp_({ min: -most, max: most }));
      });
    }
    return { precision, codes, scales };
  });
}

/** Absmax of a row of zeros. */
const SMALLEST_ABSMAX = 1e-30;

/** Returns the values in float32, (out, in). */
function wideValues(matrix: QuantizedMatrix): Tensor {
  if (matrix.precision === "nf4") return nf4Values(matrix);
  const { codes, scales, precision } = matrix;
  return codes.to({ dtype: "float32" }).mul_(scales.mul(CHANNEL_FORMS[precision].unit).unsqueeze(1));
}

/** Returns the rows per piece: their float32 temporaries stay about 1 MiB, within a cache. */
function rowsOfPiece(columns: number): number {
  return Math.max(1, Math.floor(2 ** 18 / columns));
}
