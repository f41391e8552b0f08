/** Splits packed heads into calls of an attention kernel: one sample at a time, or all samples at once. */
import { fromArray } from "../../torch/create.ts";
import type { Device } from "../../torch/dtypes.ts";
import type { Tensor } from "../../torch/tensor.ts";
import { type Rows, rowsOf, tilesOf } from "../rows.ts";

/** The samples of a micro-batch. */
export interface Packed {
  /** Rows of each sample. */
  samples: readonly Rows[];
  /** First row that has a query, in the first sample; default 0. */
  firstQuery?: number | undefined;
  /** Lengths of the samples (packedLengths). If undefined, each call copies them to the card again. */
  lengths?: PackedLengths | undefined;
}

/** Cumulative lengths, (samples + 1) int32 each; the same tensor if all rows have queries. */
export interface PackedLengths {
  queries: Tensor;
  keys: Tensor;
}

/**
 * query: (R, G, Q, D), for the R rows from the first query on; key and value: (T, G, 1, D), for all T rows.
 */
export interface PackedHeads {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** The views of packed heads that one kernel call reads; `heads` is the dimension of heads in a view. */
export interface Call {
  heads: 1 | 2;
  /** Returns the call's view of a (R, G, Q, D) tensor. */
  ofQueries(x: Tensor): Tensor;
  ofKeys(x: Tensor): Tensor;
  /** Turns the result of a call that has all queries back into (R, G, Q, D), as a view. */
  whole(part: Tensor): Tensor;
  packing: Packing;
}

/**
 * Rows of the samples in a call, and rows of their queries among all queries. Only kernels that accept
 * several samples at once get more than one.
 */
export interface Packing extends Pick<Packed, "samples" | "lengths"> {
  queries: readonly Rows[];
}

/**
 * Returns views of the heads in (T, G, Q+2, D): each kv head has its Q queries, its key and its value there.
 */
export function headsOfPacked(packed: Tensor): PackedHeads {
  const Q = packed.shape[2]! - 2;
  const [query, key, value] = [packed.narrow(2, 0, Q), packed.narrow(2, Q, 1), packed.narrow(2, Q + 1, 1)];
  return { query, key, value };
}

/** Returns, for each sample, the rows of its queries among all queries. */
export function queryRows({ samples, firstQuery = 0 }: Packed): Rows[] {
  return samples.map(({ start, end }) => ({
    start: Math.max(0, start - firstQuery),
    end: end - firstQuery,
  }));
}

/** Makes one call per sample with kv heads as the batch: (G, heads, t, D). */
export function perSample(shape: Packed): Call[] {
  return samplesApart(shape, { heads: 1, order: [1, 2, 0, 3], back: [2, 0, 1, 3] });
}

/** Makes one call per sample with kv heads as the batch: (G, t, heads, D). */
export function perSampleRowsFirst(shape: Packed): Call[] {
  return samplesApart(shape, { heads: 2, order: [1, 0, 2, 3], back: [1, 0, 2, 3] });
}

function samplesApart(
  shape: Packed,
  { heads, order, back }: { heads: 1 | 2; order: number[]; back: number[] },
): Call[] {
  const queries = queryRows(shape);
  return shape.samples.map((rows, sample) => ({
    heads,
    ofQueries: (x) => rowsOf(x, queries[sample]!).permute(order),
    ofKeys: (x) => rowsOf(x, rows).permute(order),
    whole: (part) => part.permute(back),
    packing: { samples: [rows], queries: [queries[sample]!] },
  }));
}

/**
 * Makes calls of (G, t, heads, D) with kv heads as the batch if there is one sample. For several samples,
 * makes one call of all samples per kv head: (T, heads, D).
 */
export function wholeOrPerHead(shape: Packed, kvHeads: number): Call[] {
  const { samples, lengths } = shape;
  if (samples.length === 1) return perSampleRowsFirst(shape);
  const queries = queryRows(shape);
  return Array.from({ length: kvHeads }, (_, head) => ({
    heads: 1,
    ofQueries: (x) => x.select(1, head),
    ofKeys: (x) => x.select(1, head),
    whole: (part) => part.unsqueeze(1),
    packing: { samples, queries, lengths },
  }));
}

export function headsOf(
  { query, key, value }: PackedHeads,
  { heads, ofQueries, ofKeys }: Call,
  { sharesKeys }: { sharesKeys: boolean },
): PackedHeads {
  const queries = ofQueries(query);
  const own = (x: Tensor): Tensor => {
    const part = ofKeys(x);
    return sharesKeys ? part : part.expand(part.shape.with(heads, queries.shape[heads]!));
  };
  return { query: queries, key: own(key), value: own(value) };
}

/** Splits a call into calls for a few of its Q query heads each. */
export function byQueryHeads(call: Call, Q: number, queryHeads = Q): Call[] {
  if (queryHeads === Q) return [call];
  return tilesOf(Q, queryHeads).map(({ start }) => ({
    ...call,
    ofQueries: (x) => call.ofQueries(x.narrow(2, start, queryHeads)),
  }));
}

export function lengthsOf(
  { samples, queries }: Pick<Packing, "samples" | "queries">,
  { device }: { device: Device },
): PackedLengths {
  const cumulative = (parts: readonly Rows[]): Tensor => {
    const ends = Int32Array.from([0, ...parts.map(({ end }) => end)]);
    return fromArray(ends, [ends.length], { device });
  };
  const keys = cumulative(samples);
  const isAll = queries.at(-1)!.end === samples.at(-1)!.end;
  return { queries: isAll ? keys : cumulative(queries), keys };
}

export function longestOf(samples: readonly Rows[]): number {
  return Math.max(...samples.map(({ start, end }) => end - start));
}
