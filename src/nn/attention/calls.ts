/** How packed heads go to a kernel of attention: a sample at a time, or all samples at once. */
import { fromArray } from "../../torch/create.ts";
import type { Device } from "../../torch/dtypes.ts";
import type { Tensor } from "../../torch/tensor.ts";
import { type Rows, rowsOf } from "../rows.ts";

/** The samples of a micro-batch. */
export interface Packed {
  /** The rows of each. */
  samples: readonly Rows[];
  /** The first row whose query there is, one of the first sample; 0 unless given. */
  firstQuery?: number | undefined;
  /** The samples' lengths where they are at hand (packedLengths): else each call sends them to the card anew. */
  lengths?: PackedLengths | undefined;
}

/** (samples + 1) int32 each; one tensor where all rows have queries. */
export interface PackedLengths {
  queries: Tensor;
  keys: Tensor;
}

/** query: (R, G, Q, D), the rows from the first query on; key and value: (T, G, 1, D), all rows. */
export interface PackedHeads {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** The part of packed heads for one call; `heads` is the dimension of heads in it. */
export interface Call {
  heads: 1 | 2;
  /** Returns the part as a view: of a (R, G, Q, D) tensor here, of a (T, G, 1, D) tensor below. */
  ofQueries(x: Tensor): Tensor;
  ofKeys(x: Tensor): Tensor;
  /** The other way round, for a part that is all queries. */
  whole(part: Tensor): Tensor;
  packing: Packing;
}

/** Rows of the samples in a call, and of their queries among all queries; more than one only where a kernel takes several at once. */
export interface Packing extends Pick<Packed, "samples" | "lengths"> {
  queries: readonly Rows[];
}

/** The heads of (T, G, Q+2, D), a kv head's side by side: its Q queries, its key, its value. */
export function headsOfPacked(packed: Tensor): PackedHeads {
  const Q = packed.shape[2]! - 2;
  const [query, key, value] = [packed.narrow(2, 0, Q), packed.narrow(2, Q, 1), packed.narrow(2, Q + 1, 1)];
  return { query, key, value };
}

/** Returns for each sample the rows of its queries among all queries. */
export function queryRows({ samples, firstQuery = 0 }: Packed): Rows[] {
  return samples.map(({ start, end }) => ({
    start: Math.max(0, start - firstQuery),
    end: end - firstQuery,
  }));
}

/** kv heads are the batch: (G, heads, t, D) a sample. */
export function perSample(shape: Packed): Call[] {
  return samplesApart(shape, { heads: 1, order: [1, 2, 0, 3], back: [2, 0, 1, 3] });
}

/** kv heads are the batch: (G, t, heads, D) a sample. */
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

/** One sample: kv heads are the batch, (G, t, heads, D). Several: all of them at once, (T, heads, D) a kv head. */
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
  const own = (x: Tensor): Tensor => {
    const part = ofKeys(x);
    return sharesKeys ? part : part.expand(part.shape.with(heads, query.shape[2]!));
  };
  return { query: ofQueries(query), key: own(key), value: own(value) };
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
