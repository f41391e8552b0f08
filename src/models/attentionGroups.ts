/**
 * The rows of attention, its groups of kv heads one after the other, and the low-rank branches of the output
 * linear. Ranks that share the rows of a micro-batch also share each group's heads.
 */
import type { PackedLengths } from "../nn/attention/calls.ts";
import type { AttentionShape } from "../nn/attention/kernels.ts";
import type { Rope } from "../nn/attention/rope.ts";
import { addLoraInner_, type Linear, type LowRank, type RowInfo } from "../nn/linear.ts";
import { apartRows } from "../nn/plora.ts";
import { forEachPart, type Rows, rowCount, rowsOf, shifted, tilesOf } from "../nn/rows.ts";
import { empty } from "../torch/create.ts";
import { ALONE, type Peers } from "../torch/peers/peers.ts";
import { dispose, scope, type Tensor } from "../torch/tensor.ts";
import type { QkvPart } from "./family.ts";
import { lastRows, type MlpRows } from "./tiles.ts";

/**
 * The micro-batch as the layers see it, and how finely they cut it. With `sharers`, the layers see the rank's
 * own rows, from `first` on, and attention sees the rows of all ranks.
 */
export interface Sequence extends MlpRows {
  /** Tables of the rows that attention sees. */
  rope: Rope;
  /** The rows that attention sees; with a first query if only the rows from it on are needed. */
  shape: AttentionShape;
  /**
   * Ranks that share the rows, as many consecutive ones each. Their number divides kvHeads. Default: this
   * process has all rows.
   */
  sharers?: Peers;
  kvHeads: number;
  /** Which rows of which linears make a kv head's queries, key and value. */
  qkv: (kvHead: number) => readonly QkvPart[];
  /** Groups that attention computes one after the other; divides the kv heads of a rank. */
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

/** kv heads that attention computes at a time, by the rank that computes them. */
export type HeadGroup = readonly HeadShare[];

export interface HeadShare {
  /** kv heads of the group on one rank. */
  heads: Rows;
  /** Their columns of the output linear. */
  outColumns: Rows;
}

export function headGroups({ kvHeads, headGroups, shape: { Q, D }, sharers }: Sequence): HeadGroup[] {
  const { count } = sharers ?? ALONE;
  const ofRank = kvHeads / count;
  return tilesOf(ofRank, ofRank / headGroups).map((group) =>
    Array.from({ length: count }, (_, rank) => {
      const heads = shifted(group, rank * ofRank);
      return { heads, outColumns: { start: heads.start * Q * D, end: heads.end * Q * D } };
    }),
  );
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
 * Calls body for each rank's heads of a group, in a scope of its own, with the rows of x that belong to them.
 * x: (ranks * rows, columns).
 */
export function forEachShare(
  group: HeadGroup,
  x: Tensor,
  body: (share: HeadShare, x: Tensor, rows: Rows) => unknown,
): void {
  const count = x.shape[0]! / group.length;
  forEachPart(
    group,
    () => "share",
    (share, rank) => {
      const rows = { start: rank * count, end: (rank + 1) * count };
      scope(() => void body(share, rowsOf(x, rows), rows));
    },
  );
}

/**
 * Returns what `make` makes of the rows of x that belong to each rank's heads, one below the other. x: (ranks
 * * rows, columns), like the result.
 */
export function stackedShares(
  group: HeadGroup,
  x: Tensor,
  make: (x: Tensor, share: HeadShare) => Tensor,
): Tensor {
  if (group.length === 1) return scope(() => make(x, group[0]!));
  const whole = x.emptyLike();
  forEachShare(group, x, (share, own, rows) => rowsOf(whole, rows).copy_(make(own, share)));
  return whole;
}

/**
 * Exchanges a group's values among the ranks that share the rows. Own rows of every rank's heads, one rank
 * below the other, become all rows of the own heads, and the other way round. x: (ranks * rows, columns).
 */
export function exchanged(x: Tensor, { sharers = ALONE }: Sequence): Tensor {
  if (sharers.count === 1) return x;
  return scope(() => {
    const { shape, dtype, device } = x;
    const into = empty(shape, { dtype, device });
    sharers.exchange(x.contiguous(), into).wait();
    return into;
  });
}

/**
 * Frees what attention of shared rows no longer needs, before the group ends: all rows of a head are much
 * beside the own rows. A process alone has views of the same memory, which it needs until then.
 */
export function freeExchanged({ sharers = ALONE }: Sequence, ...tensors: Tensor[]): void {
  if (sharers.count > 1) dispose(tensors);
}

/**
 * Adds the inner products of attention's output to outer. out: (R, G * Q * D); part: its slice of the output
 * linear.
 */
export function addGroupInner_(outer: LowRank, out: Tensor, part: Linear, info: RowInfo): void {
  forEachPart(apartRows(part, info.ploraRows), rowCount, (rows, range) => {
    outer.plora[range]!.addmm_(rowsOf(out, rows), part.plora!.a.t());
  });
  const { lora } = part;
  if (lora && outer.lora) addLoraInner_(outer.lora, out, lora, info.place);
}
