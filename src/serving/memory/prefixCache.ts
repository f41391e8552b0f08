/**
 * Keeps keys and values of finished prompts and answers, so that a prompt with the same beginning need not
 * compute it again. The oldest are dropped when a new sequence needs their room.
 */
import { rowCount } from "../../nn/rows.ts";
import { type Chain, chainTokens, chainUpTo, type KvSlots, type Link, type Segment } from "./kvPool.ts";

/** Stands for the content of a row: the token's id, or a number below zero for a row of a picture. */
export type RowKeys = Int32Array;

interface Entry {
  /** The adapter that the keys and values were computed with. */
  owner: unknown;
  keys: RowKeys;
  chain: Chain;
}

/** The entry with the longest known beginning. */
interface Found {
  entry: Entry | undefined;
  tokens: number;
}

/** Fewer known tokens are computed again: sharing them would keep the whole segment that they lie in. */
const LEAST_SHARED = 16;
/** Most entries: a look-up compares them one by one. */
const MOST_ENTRIES = 256;

export class PrefixCache {
  readonly #slots: KvSlots;
  /** The longest unused first. */
  #entries: Entry[] = [];
  #version = 0;

  constructor(slots: KvSlots) {
    this.#slots = slots;
  }

  /** Changes with every addition: only then may a look-up find more than before. */
  get version(): number {
    return this.#version;
  }

  /** Slots that only the cache uses. */
  get cachedTokens(): number {
    return this.#onlyHere().reduce((sum, { slots }) => sum + rowCount(slots), 0);
  }

  /** Returns how many tokens of a beginning are known, up to a number. */
  knownTokens(owner: unknown, keys: RowKeys, mostTokens: number): number {
    return this.#worthSharing(owner, keys, mostTokens).tokens;
  }

  /** Returns the longest known beginning, counted as used; the caller releases it. */
  take(owner: unknown, keys: RowKeys, mostTokens: number): Link[] {
    const { entry, tokens } = this.#worthSharing(owner, keys, mostTokens);
    if (!entry) return [];
    this.#entries = [...this.#entries.filter((other) => other !== entry), entry];
    const chain = chainUpTo(entry.chain, tokens);
    this.#slots.share(chain);
    return chain;
  }

  /** Adds a beginning, one key for each token of the chain. Entries that it contains are dropped. */
  add(owner: unknown, keys: RowKeys, chain: Chain): void {
    if (keys.length !== chainTokens(chain)) throw new Error("a cached row needs a key");
    if (keys.length === 0) return;
    if (this.#longest(owner, keys, keys.length).tokens === keys.length) return;
    this.#slots.share(chain);
    this.#drop(
      (entry) => entry.owner === owner && commonRows(entry.keys, keys, keys.length) === entry.keys.length,
    );
    this.#entries.push({ owner, keys, chain });
    this.#version++;
    while (this.#entries.length > MOST_ENTRIES) this.#dropOldest();
  }

  /** Drops the oldest entries until so many slots are free. Drops none and returns false if that can't be. */
  makeRoom(tokens: number): boolean {
    if (this.#slots.freeTokens + this.cachedTokens < tokens) return false;
    while (this.#slots.freeTokens < tokens) this.#dropOldest();
    return true;
  }

  /** Drops all entries of an owner, or all there are. */
  forget(owner?: unknown): void {
    this.#drop((entry) => owner === undefined || entry.owner === owner);
  }

  #worthSharing(owner: unknown, keys: RowKeys, mostTokens: number): Found {
    const found = this.#longest(owner, keys, mostTokens);
    return found.tokens < LEAST_SHARED ? { entry: undefined, tokens: 0 } : found;
  }

  #longest(owner: unknown, keys: RowKeys, mostTokens: number): Found {
    let best: Found = { entry: undefined, tokens: 0 };
    for (const entry of this.#entries) {
      if (entry.owner !== owner) continue;
      const tokens = commonRows(entry.keys, keys, mostTokens);
      if (tokens > best.tokens) best = { entry, tokens };
    }
    return best;
  }

  #dropOldest(): void {
    const oldest = this.#entries.shift();
    if (oldest) this.#slots.release(oldest.chain);
  }

  #drop(isDropped: (entry: Entry) => boolean): void {
    const dropped = this.#entries.filter(isDropped);
    this.#entries = this.#entries.filter((entry) => !dropped.includes(entry));
    for (const { chain } of dropped) this.#slots.release(chain);
  }

  /** Returns the segments that no sequence uses. */
  #onlyHere(): Segment[] {
    const uses = new Map<Segment, number>();
    for (const { chain } of this.#entries)
      for (const { segment } of chain) uses.set(segment, (uses.get(segment) ?? 0) + 1);
    return [...uses].flatMap(([segment, count]) => (segment.users === count ? segment : []));
  }
}

/** Returns the number of rows at the beginning that are the same, up to a number. */
export function commonRows(one: RowKeys, other: RowKeys, mostTokens: number): number {
  const most = Math.min(one.length, other.length, mostTokens);
  let rows = 0;
  while (rows < most && one[rows] === other[rows]) rows++;
  return rows;
}
