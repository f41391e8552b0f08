/** The rows of attention and its groups of kv heads, one after the other; and the low-rank branches of wo, which sum over them. */
import type { Rope } from "../nn/attention.ts";
import type { PackedLengths } from "../nn/attentionCalls.ts";
import type { AttentionShape } from "../nn/attentionKernels.ts";
import { type DropoutBlock, dropBlock_, dropoutBlocks, type RowPlace } from "../nn/dropout.ts";
import { addProduct_, type Linear, type LoraBranch, type LowRank, type RowInfo } from "../nn/linear.ts";
import { apartRows } from "../nn/plora.ts";
import {
  forEachKind,
  forEachPart,
  type Kind,
  kindsOfTiles,
  type Rows,
  rowCount,
  rowsOf,
  tilesOf,
} from "../nn/rows.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { lastRows, type MlpRows } from "./tiles.ts";

/** The micro-batch as the layers see it, and how finely they cut it. */
export interface Sequence extends MlpRows {
  rope: Rope;
  /** With a first query where only the rows from it on are asked for. */
  shape: AttentionShape;
  kvHeads: number;
  /** Groups of kv heads that attention takes one after the other; divides kvHeads. */
  headGroups: number;
  /** Whether attention's normalised input is held, or made again in tiles of rows whenever a group needs it. */
  attentionInput: "kept" | "recomputed";
  /** The rows whose attention is asked for, where they are not all (askedFrom). */
  asked?: MlpRows & { first: number };
}

/** The same rows, of which attention's output is asked for from one row of the first sample on; lengths: packedLengths of the shape then. */
export function askedFrom(sequence: Sequence, first: number, lengths?: PackedLengths): Sequence {
  const { shape } = sequence;
  return {
    ...sequence,
    shape: { ...shape, firstQuery: first, lengths },
    asked: { ...lastRows(sequence, first, shape.samples.at(-1)!.end), first },
  };
}

/** The rows of x, (T, C), that are asked for: (R, C). */
export function askedRows(x: Tensor, { asked }: Sequence): Tensor {
  return asked ? rowsOf(x, { start: asked.first, end: x.shape[0]! }) : x;
}

export interface HeadGroup {
  /** kv heads of the group. */
  heads: Rows;
  /** Their rows of wqkv and columns of wo. */
  qkvRows: Rows;
  outColumns: Rows;
  /** Columns of one kv head in the group's attention output. */
  headColumns: number;
}

export function headGroups({ kvHeads, headGroups, shape: { Q, D } }: Sequence): HeadGroup[] {
  return tilesOf(kvHeads, kvHeads / headGroups).map((heads) => ({
    heads,
    qkvRows: { start: heads.start * (Q + 2) * D, end: heads.end * (Q + 2) * D },
    outColumns: { start: heads.start * Q * D, end: heads.end * Q * D },
    headColumns: Q * D,
  }));
}

/** Calls body for each group in a scope of its own; all are alike. */
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

/** outer += the inner products of a group's attention output. out: (R, G * Q * D). */
export function addGroupInner_(
  outer: LowRank,
  out: Tensor,
  part: Linear,
  info: RowInfo,
  group: HeadGroup,
): void {
  forEachPart(apartRows(part, info.ploraRows), rowCount, (rows, range) => {
    outer.plora[range]!.addmm_(rowsOf(out, rows), part.plora.a.t());
  });
  const { lora } = part;
  if (lora && outer.lora) addDroppedInner_(outer.lora, out, lora, info.place, group);
}

/** z += drop(out) A^T; masks are drawn for each kv head, so that grouping does not change them. */
function addDroppedInner_(
  z: Tensor,
  out: Tensor,
  { a, dropout }: LoraBranch,
  place: RowPlace,
  group: HeadGroup,
): void {
  forEachKind(dropoutParts(out, dropout, place, group), ({ rows, columns, head }) => {
    scope(() => {
      const seen = rowsOf(out, rows).narrow(1, columns.start, columns.end - columns.start);
      const kept = dropout ? dropBlock_(seen.clone(), dropout, rows.place, head) : seen;
      rowsOf(z, rows).addmm_(kept, a.narrow(1, columns.start, columns.end - columns.start).t());
    });
  });
}

/** Adds the group's share to dOut (gradient of its output), z (inner products) and gradA. dz: (R, rank), out: (R, G * Q * D). */
export function addGroupLoraGradients_(
  { dOut, z, gradA }: { dOut: Tensor; z: Tensor; gradA: Tensor | undefined },
  dz: Tensor,
  out: Tensor,
  { a, dropout }: LoraBranch,
  place: RowPlace,
  group: HeadGroup,
): void {
  forEachKind(dropoutParts(out, dropout, place, group), ({ rows, columns, head }) => {
    scope(() => {
      const cut = (x: Tensor): Tensor => x.narrow(1, columns.start, columns.end - columns.start);
      const seen = cut(rowsOf(out, rows));
      const kept = dropout ? dropBlock_(seen.clone(), dropout, rows.place, head) : seen;
      const dzRows = rowsOf(dz, rows);
      rowsOf(z, rows).addmm_(kept, cut(a).t());
      if (gradA) addProduct_(cut(gradA), dzRows.t(), kept);
      const into = cut(rowsOf(dOut, rows));
      if (dropout) into.add_(dropBlock_(dzRows.mm(cut(a)), dropout, rows.place, head));
      else into.addmm_(dzRows, cut(a));
    });
  });
}

/** The blocks of a group's output that have a mask of their own, as a loop has to take them; all of it where nothing is dropped. */
function dropoutParts(
  out: Tensor,
  dropout: LoraBranch["dropout"],
  place: RowPlace,
  { heads, headColumns }: HeadGroup,
): Kind<{ rows: DropoutBlock; columns: Rows; head: number }>[] {
  const [rows, columns] = [out.shape[0]!, out.shape[1]!];
  const cuts = kindsOfTiles(columns, dropout ? headColumns : columns);
  return dropoutBlocks(rows, dropout, place).flatMap((block) =>
    cuts.map((cut) => ({
      part: { rows: block.part, columns: cut.part, head: heads.start + cut.index },
      index: block.index * cuts.length + cut.index,
      times: block.times * cut.times,
    })),
  );
}
