/**
 * Keys and values of all sequences in one pool of fixed size, which a plan has room for. A sequence's tokens
 * lie in a chain of segments; sequences with the same beginning share its segments.
 */
import type { KeysAndValues } from "../../models/generation/kvCache.ts";
import type { Model } from "../../models/weights.ts";
import { type Rows, rowCount } from "../../nn/rows.ts";
import { empty, fromArray } from "../../torch/create.ts";
import { category } from "../../torch/device.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { Slots } from "./slots.ts";

/** Consecutive slots of the pool, with the number of chains that they are in. */
export interface Segment {
  slots: Rows;
  users: number;
}

/** The first tokens of a segment, as a part of a chain. */
export interface Link {
  segment: Segment;
  tokens: number;
}

/** Segments that hold a sequence's tokens in order. */
export type Chain = readonly Link[];

export function chainTokens(chain: Chain): number {
  return chain.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** Returns the first tokens of a chain. */
export function chainUpTo(chain: Chain, tokens: number): Link[] {
  const links: Link[] = [];
  let left = tokens;
  for (const link of chain) {
    if (left <= 0) break;
    links.push({ segment: link.segment, tokens: Math.min(left, link.tokens) });
    left -= link.tokens;
  }
  return links;
}

/** Returns the slots of a chain's tokens, range by range, from one token to another. */
export function slotsOf(chain: Chain, { start, end }: Rows): Rows[] {
  const ranges: Rows[] = [];
  let first = 0;
  for (const { segment, tokens } of chain) {
    const from = Math.max(start - first, 0);
    const to = Math.min(end - first, tokens);
    if (from < to) ranges.push({ start: segment.slots.start + from, end: segment.slots.start + to });
    first += tokens;
  }
  return ranges;
}

/** The bookkeeping of the pool's slots: segments, and the chains that share them. */
export class KvSlots {
  readonly #slots: Slots;

  constructor(tokens: number) {
    this.#slots = new Slots(tokens);
  }

  get total(): number {
    return this.#slots.total;
  }

  get freeTokens(): number {
    return this.#slots.freeCount;
  }

  /** Reserves room for so many tokens, in one chain; undefined if there is less. */
  reserve(tokens: number): Link[] | undefined {
    const parts = this.#slots.takeParts(tokens);
    return parts?.map((slots) => ({ segment: { slots, users: 1 }, tokens: rowCount(slots) }));
  }

  /** Counts one more user of a chain's segments. */
  share(chain: Chain): void {
    for (const { segment } of chain) segment.users++;
  }

  /** Counts one user less, and frees segments without users. */
  release(chain: Chain): void {
    for (const { segment } of chain) {
      segment.users--;
      if (segment.users === 0) this.#slots.give(segment.slots);
    }
  }

  /**
   * Frees the slots after a chain's first tokens, which no other chain may use. Returns the rest.
   */
  trim(chain: Chain, tokens: number): Link[] {
    const left = chainUpTo(chain, tokens);
    for (const [index, { segment, tokens: had }] of chain.entries()) {
      const kept = left[index]?.tokens ?? 0;
      if (kept === had) continue;
      const { start, end } = segment.slots;
      if (end - start !== had || (kept === 0 && segment.users !== 1))
        throw new Error("a segment that others use cannot be trimmed");
      this.#slots.give({ start: start + kept, end });
      segment.slots = { start, end: start + kept };
      if (kept === 0) segment.users = 0;
    }
    return left;
  }
}

/** The pool's tensors. */
export class KvPool implements Disposable {
  /** (G, P, D) each, of every layer. Keys are rotated. */
  readonly #layers: KeysAndValues[];

  constructor({ config, dtype, device }: Pick<Model, "config" | "dtype" | "device">, tokens: number) {
    const { layers, kvHeads, headDim } = config;
    const room = (): Tensor => empty([kvHeads, tokens, headDim], { dtype, device });
    this.#layers = category("boundaryActivations", () =>
      keep(scope(() => Array.from({ length: layers }, () => ({ keys: room(), values: room() })))),
    );
  }

  /** Returns views of ranges of slots, (G, slots, D) each. */
  read(layer: number, ranges: readonly Rows[]): KeysAndValues[] {
    const { keys, values } = this.#layers[layer]!;
    return ranges.map(({ start, end }) => ({
      keys: keys.narrow(1, start, end - start),
      values: values.narrow(1, start, end - start),
    }));
  }

  /** Writes keys and values, (T, G, D) each, into slots, (T). */
  write(layer: number, slots: Tensor, { keys, values }: KeysAndValues): void {
    const { keys: allKeys, values: allValues } = this.#layers[layer]!;
    scope(() => {
      allKeys.indexCopy_(1, slots, keys.transpose(0, 1));
      allValues.indexCopy_(1, slots, values.transpose(0, 1));
    });
  }

  /** Returns the numbers of slots as a tensor on the pool's device. */
  slotTensor(slots: readonly number[]): Tensor {
    const { device } = this.#layers[0]!.keys;
    return fromArray(BigInt64Array.from(slots, BigInt), [slots.length], { dtype: "int64", device });
  }

  [Symbol.dispose](): void {
    dispose(this.#layers);
  }
}
