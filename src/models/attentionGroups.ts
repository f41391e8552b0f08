/**
 * The rows of attention, its groups of kv heads one after the other, and the low-rank branches of the output
 * linear.
 */
import type { PackedLengths } from "../nn/attention/calls.ts";
import type { AttentionShape } from "../nn/attention/kernels.ts";
import type { Rope } from "../nn/attention/rope.ts";
import { addLoraInner_, type Linear, type LowRank, type RowInfo } from "../nn/linear.ts";
import { apartRows } from "../nn/plora.ts";
import { forEachPart, type Rows, rowCount, rowsOf, tilesOf } from "../nn/rows.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { QkvPart } from "./family.ts";
import { lastRows, type MlpRows } from "./tiles.ts";

/** The micro-batch as the layers see it, and how finely they cut it. */
export interface Sequence extends MlpRows {
  rope: Rope;
  /** With a first query if only the rows from it on are needed. */
  shape: AttentionShape;
  kvHeads: number;
  /** Which rows of which linears make a kv head's queries, key and value. */
  qkv: (kvHead: number) => readonly QkvPart[];
  /** Groups of kv heads that attention computes one after the other; divides kvHeads. */
  headGroups: number;
  /**
   * Whether attention's normalised input is held, or made again in tiles of rows whenever a group needs it.
   */
  attentionInput: "kept" | "recomputed";
  /** The rows whose attention is needed, if not all rows (askedFrom). */
  asked?: MlpRows & { first: number };
}

/**
 * Returns a sequence whose attention is needed only from one row of the first sample on. lengths:
 * packedLengths of that shape.
 */
export function askedFrom(sequence: Sequence, first: number, lengths?: PackedLengths): Sequence {
  const { shape } = sequence;
  return {
    ...sequence,
    shape: { ...shape, firstQuery: first, lengths },
    asked: { ...lastRows(sequence, first, shape.samples.at(-1)!.end), first },
  };
}

/** Returns the rows of x, (T, C), whose attention is needed: (R, C). */
export function askedRows(x: Tensor, { asked }: Sequence): Tensor {
  return asked ? rowsOf(x, { start: asked.first, end: x.shape[0]! }) : x;
}

export interface HeadGroup {
  /** kv heads of the group. */
  heads: Rows;
  /** Their columns of the output linear. */
  outColumns: Rows;
}

export function headGroups({ kvHeads, headGroups, shape: { Q, D } }: Sequence): HeadGroup[] {
  return tilesOf(kvHeads, kvHeads / headGroups).map((heads) => ({
    heads,
    outColumns: { start: heads.start * Q * D, end: heads.end * Q * D },
  }));
}

/** Calls body for each group in a scope of its own. All groups are alike. */
export function forEachGroup(
  groups: readonly HeadGroup[],
  body: (group: HeadGroup, index: number) => unknown,
): void {
  forEachPart(
    groups,
    () => "group",
    (group, index) => {
      scope(() => void body(group, index));
    },
  );
}

/**
 * Adds the inner products of a group's attention output to outer. out: (R, G * Q * D); part: the group's
 * slice of the output linear.
 */
export function addGroupInner_(outer: LowRank, out: Tensor, part: Linear, info: RowInfo): void {
  forEachPart(apartRows(part, info.ploraRows), rowCount, (rows, range) => {
    outer.plora[range]!.addmm_(rowsOf(out, rows), part.plora!.a.t());
  });
  const { lora } = part;
  if (lora && outer.lora) addLoraInner_(outer.lora, out, lora, info.place);
}
