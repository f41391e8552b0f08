/** The precisions that the frozen base can be held in. */
import { QUANTIZED_PRECISIONS } from "../../nn/frozen/storedNames.ts";

/** Precisions of frozen matrices; bf16 stands for the compute dtype. */
export const BASES = ["bf16", ...QUANTIZED_PRECISIONS] as const;
export type Base = (typeof BASES)[number];

/** Embeddings and head have fewer choices: single rows of them are read. */
export const HEAD_BASES = ["bf16", "int8"] as const;
export type HeadBase = (typeof HEAD_BASES)[number];

/** The precision of each part of the frozen model; where left out, the checkpoint's own. */
export interface Bases {
  /** The decoder's linears. */
  base?: Base | undefined;
  /** Embeddings and head. */
  headBase?: HeadBase | undefined;
  /** The linears of vision tower and projector. */
  visionBase?: Base | undefined;
}

/** A part of the frozen model that has a precision. */
export type BasePart = keyof Bases;

/** Returns whether embeddings and head can be held in a precision. */
export function isHeadBase(precision: string | undefined): precision is HeadBase {
  return HEAD_BASES.some((known) => known === precision);
}
