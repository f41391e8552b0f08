/**
 * Attention of a pass: each sequence's rows see the keys and values of its own chain. Single rows of
 * sequences with the same beginning read the shared keys and values once for all of them.
 */
import type { KeysAndValues } from "../../models/generation/kvCache.ts";
import { CARD_KERNELS, type CardKernel } from "../../nn/attention/cardKernels.ts";
import { attentionWithSums, kernelForward, takesLastRows } from "../../nn/attention/kernels.ts";
import { forEachPart, type Rows, rowCount, rowsOf } from "../../nn/rows.ts";
import { cat, empty, stack } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { type Chain, type KvPool, slotsOf } from "../memory/kvPool.ts";

/** The rows of one sequence in a pass. Its chain holds keys and values of all its tokens up to them. */
export interface AttentionRows {
  /** Rows among those of the pass. */
  rows: Rows;
  chain: Chain;
  /** Tokens of the sequence before these rows. */
  start: number;
}

/** Single rows whose chains share their first tokens. */
interface SharedRows {
  /** All rows of the group, one for each member. */
  rows: Rows;
  members: AttentionRows[];
  /** First tokens that all members share. */
  sharedTokens: number;
}

/** Most single rows that are computed together: it bounds the memory of their scores. */
export const MOST_TOGETHER = 8;

/** The work of a pass's attention, the same in every layer. */
export interface AttentionPlan {
  single: SharedRows[];
  several: AttentionRows[];
}

/** Orders rows so that single rows with the same beginning follow one another. */
export function byBeginning(one: Pick<AttentionRows, "chain">, other: Pick<AttentionRows, "chain">): number {
  return beginningOf(one) - beginningOf(other);
}

function beginningOf({ chain }: Pick<AttentionRows, "chain">): number {
  return chain[0]!.segment.slots.start;
}

/** Groups the rows of a pass. Single rows of a group must follow one another. */
export function planAttention(all: readonly AttentionRows[]): AttentionPlan {
  const single: SharedRows[] = [];
  for (const member of all.filter(({ rows }) => rowCount(rows) === 1)) {
    const group = single.at(-1);
    const shared = group ? sharedWith(group, member) : 0;
    if (group && shared > 0 && group.members.length < MOST_TOGETHER) {
      group.members.push(member);
      group.rows = { start: group.rows.start, end: member.rows.end };
      group.sharedTokens = shared;
    } else single.push({ rows: member.rows, members: [member], sharedTokens: 0 });
  }
  return { single, several: all.filter(({ rows }) => rowCount(rows) > 1) };
}

/** Returns the first tokens that a group shares with one more member; 0 if that one does not belong to it. */
function sharedWith({ rows, members, sharedTokens }: SharedRows, member: AttentionRows): number {
  const [first] = members;
  if (first!.chain[0]!.segment !== member.chain[0]!.segment || rows.end !== member.rows.start) return 0;
  const ofAll = members.length === 1 ? seenInFirst(first!) : sharedTokens;
  return Math.min(ofAll, seenInFirst(member));
}

/** Returns the tokens before the rows that lie in the chain's first segment. */
function seenInFirst({ chain, start }: AttentionRows): number {
  return Math.min(chain[0]!.tokens, start);
}

/**
 * Returns the attention of all rows, (T, H * D). packed: (T, G, Q+2, D), rotated; its keys and values are in
 * the pool.
 */
export function attendChains(packed: Tensor, pool: KvPool, layer: number, plan: AttentionPlan): Tensor {
  return scope(() => {
    const [T, G, heads, D] = packed.shape as [number, number, number, number];
    const Q = heads - 2;
    const { dtype, device } = packed;
    const out = empty([T, G, Q, D], { dtype, device });
    const query = packed.narrow(2, 0, Q); // (T, G, Q, D)
    forEachPart(plan.several, costOfSeveral, (rows) => {
      scope(() => rowsOf(out, rows.rows).copy_(attendSeveral(query, pool, layer, rows)));
    });
    forEachPart(plan.single, costOfSingle, (group) => {
      scope(() => attendSingle_(out, query, pool, layer, group));
    });
    return out.view([T, G * Q * D]);
  });
}

/** Returns the attention of a sequence's rows to themselves and all tokens before: (n, G, Q, D). */
function attendSeveral(
  query: Tensor,
  pool: KvPool,
  layer: number,
  { rows, chain, start }: AttentionRows,
): Tensor {
  const [, , Q, D] = query.shape as [number, number, number, number];
  const tokens = start + rowCount(rows);
  const parts = pool.read(layer, slotsOf(chain, { start: 0, end: tokens }));
  const one = (which: keyof KeysAndValues): Tensor => {
    const all = parts.map((part) => part[which]);
    return (all.length === 1 ? all[0]! : cat(all, 1)).transpose(0, 1).unsqueeze(2); // (tokens, G, 1, D)
  };
  const heads = { query: rowsOf(query, rows), key: one("keys"), value: one("values") };
  const shape = { Q, D, samples: [{ start: 0, end: tokens }], firstQuery: start, kernel: kernelFor(query) };
  return kernelForward(heads, shape).out;
}

/** Returns the kernel that accepts queries of the last rows alone; undefined if the usual one does. */
function kernelFor(query: Tensor): CardKernel | undefined {
  return takesLastRows(query) ? undefined : PRODUCTS;
}

const PRODUCTS = CARD_KERNELS[3];

/** Writes the attention of single rows into their rows of `out`, (T, G, Q, D). */
function attendSingle_(
  out: Tensor,
  query: Tensor,
  pool: KvPool,
  layer: number,
  { rows, members, sharedTokens }: SharedRows,
): void {
  const [, G, Q, D] = query.shape as [number, number, number, number];
  const n = members.length;
  const asked = rowsOf(query, rows)
    .transpose(0, 1)
    .reshape([G, n * Q, D]); // by kv head, then member
  const parts = (member: AttentionRows, from: number): KeysAndValues[] =>
    pool.read(layer, slotsOf(member.chain, { start: from, end: member.start + 1 }));
  const shared =
    sharedTokens > 0
      ? attendParts(asked, pool.read(layer, slotsOf(members[0]!.chain, { start: 0, end: sharedTokens })))
      : undefined;
  members.forEach((member, index) => {
    scope(() => {
      const own = attendParts(asked.narrow(1, index * Q, Q), parts(member, sharedTokens));
      const ofMember = (x: Tensor): Tensor => x.narrow(1, index * Q, Q);
      const before = shared && { values: ofMember(shared.values), sums: ofMember(shared.sums) };
      const { values } = before ? merged(before, own) : own; // (G, Q, D)
      out.select(0, rows.start + index).copy_(values);
    });
  });
}

/** Attention over a part of the keys: (G, R, D), and the logarithms of the sums of weights, (G, R). */
interface Partial {
  values: Tensor;
  sums: Tensor;
}

/** Returns the attention of each query to all keys of the parts. query: (G, R, D). */
function attendParts(query: Tensor, parts: readonly KeysAndValues[]): Partial {
  return parts
    .map(({ keys, values }): Partial => {
      const [x, sums] = attentionWithSums(query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0));
      return { values: x.select(0, 0), sums: sums.select(0, 0) };
    })
    .reduce(merged);
}

/** Merges attention over two parts of the keys, in float32. */
function merged(one: Partial, other: Partial): Partial {
  return scope(() => {
    const share = one.sums.sub(other.sums).sigmoid().unsqueeze(-1); // (G, R, 1)
    const [x, y] = [one.values, other.values].map((values) => values.to({ dtype: "float32" })) as [
      Tensor,
      Tensor,
    ];
    const values = x.sub(y).mul_(share).add_(y); // (G, R, D)
    return { values, sums: stack([one.sums, other.sums]).logsumexp([0]) };
  });
}

function costOfSeveral({ rows, start, chain }: AttentionRows): string {
  return `${rowCount(rows)} ${start} ${chain.length}`;
}

function costOfSingle({ members, sharedTokens }: SharedRows): string {
  return `${sharedTokens} ${members.map(({ start, chain }) => `${start} ${chain.length}`)}`;
}
