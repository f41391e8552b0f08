/**
 * Running means of a gradient and of its square, as float32 or in 8 bits, on the device or in the host pool;
 * cut into tiles.
 */
import type { Place } from "../../models/places.ts";
import { emptyOnHost } from "../../torch/copies.ts";
import { empty } from "../../torch/create.ts";
import type { Device, DType } from "../../torch/dtypes.ts";
import type { Tensor } from "../../torch/tensor.ts";
import { BLOCK_ELEMENTS, type Codes, type CodeTable, codeTable, zeroCodes } from "./eightBit.ts";

/** A tensor is of its parameter's shape, or flat where it is a tile. */
export type Moment = Tensor | Codes;

export interface Moments {
  mean: Moment;
  square: Moment;
}

/** Tables of the codes of means and of squares. */
export type CodeTables = Record<keyof Moments, CodeTable>;

export type Precision = "fp32" | "8bit";

/**
 * Parameters of fewer elements keep float32 moments, as in bitsandbytes: they need little room and learn the
 * most from each step.
 */
const LEAST_ELEMENTS_IN_8_BITS = 4096;

/** Elements of one parameter. */
export interface Span {
  start: number;
  elements: number;
}

/** The values of the 256 codes, for means and for squares. */
export function codeTables(device: Device): CodeTables {
  return { mean: codeTable("signed", device), square: codeTable("unsigned", device) };
}

/** Moments before the first step; in 8 bits where there are tables. */
export function zeroMoments(
  { shape, dtype, numel }: Tensor,
  { device, place, tables }: { device: Device; place: Place; tables: CodeTables | undefined },
): Moments {
  const make = (shape: readonly number[], dtype: DType): Tensor =>
    place === "host" ? emptyOnHost(shape, { dtype, device }) : empty(shape, { dtype, device });
  const zero = (table: CodeTable | undefined): Moment =>
    table && numel >= LEAST_ELEMENTS_IN_8_BITS ? zeroCodes(numel, table, make) : make(shape, dtype).zero_();
  return { mean: zero(tables?.mean), square: zero(tables?.square) };
}

export function isCodes(moment: Moment): moment is Codes {
  return "codes" in moment;
}

/** Both are floats, or both are codes. */
export function copyMoment_(into: Moment, from: Moment): void {
  if (isCodes(into) && isCodes(from)) {
    into.codes.copy_(from.codes);
    into.absmax.copy_(from.absmax);
  } else {
    (into as Tensor).copy_(from as Tensor);
  }
}

/** So many elements of a tensor as a flat view. */
export function flatSpan(x: Tensor, { start, elements }: Span): Tensor {
  return x.view([-1]).narrow(0, start, elements);
}

/** Views of a moment's span; it begins with a block. */
export function momentSpan(moment: Moment, span: Span): Moment {
  if (!isCodes(moment)) return flatSpan(moment, span);
  const blocks = { start: span.start / BLOCK_ELEMENTS, count: Math.ceil(span.elements / BLOCK_ELEMENTS) };
  const cut = (x: Tensor): Tensor => x.narrow(0, blocks.start, blocks.count);
  return { codes: cut(moment.codes), absmax: cut(moment.absmax) };
}

/** Returns spans of so many elements, a multiple of a block, that make up a parameter from an element on. */
export function spansOf({ numel }: Tensor, tileElements: number, from = 0): Span[] {
  const count = Math.max(0, Math.ceil((numel - from) / tileElements));
  return Array.from({ length: count }, (_, tile) => ({
    start: from + tile * tileElements,
    elements: Math.min(tileElements, numel - from - tile * tileElements),
  }));
}
