/** An ordered set that stays fast with a hundred thousand items: sorted chunks, searched by bisection. */

const CHUNK_ITEMS = 128;

/**
 * Items in the order of `compare`, which must order any two of them. An item's order must not change while it
 * is in the set.
 */
export class SortedSet<Key, Item extends Key = Key> {
  private readonly chunks: Item[][] = [];
  private readonly compare: (a: Key, b: Key) => number;

  constructor(compare: (a: Key, b: Key) => number) {
    this.compare = compare;
  }

  /** Returns the first item that is not before `key`. */
  ceiling(key: Key): Item | undefined {
    const chunk = this.chunks[this.chunkOf(key)];
    return chunk?.[this.indexIn(chunk, key)];
  }

  /** Returns the item after `item`, which must be in the set. */
  after(item: Item): Item | undefined {
    const at = this.chunkOf(item);
    const chunk = this.chunks[at]!;
    return chunk[this.indexIn(chunk, item) + 1] ?? this.chunks[at + 1]?.[0];
  }

  insert(item: Item): void {
    const at = Math.min(this.chunkOf(item), this.chunks.length - 1);
    const chunk = this.chunks[at];
    if (!chunk) {
      this.chunks.push([item]);
      return;
    }
    chunk.splice(this.indexIn(chunk, item), 0, item);
    if (chunk.length > CHUNK_ITEMS) this.chunks.splice(at + 1, 0, chunk.splice(CHUNK_ITEMS / 2));
  }

  /** Removes `item`. Throws if it is not in the set. */
  remove(item: Item): void {
    const at = this.chunkOf(item);
    const chunk = this.chunks[at] ?? [];
    const index = this.indexIn(chunk, item);
    if (chunk[index] !== item) throw new Error("the set does not hold this item");
    chunk.splice(index, 1);
    if (chunk.length === 0) this.chunks.splice(at, 1);
  }

  /** Returns a copy of all items, in order. */
  items(): Item[] {
    return this.chunks.flat();
  }

  /**
   * Returns the index of the first chunk whose last item is not before `key`; the number of chunks if there
   * is none.
   */
  private chunkOf(key: Key): number {
    const { chunks } = this;
    let low = 0;
    let high = chunks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const chunk = chunks[middle]!;
      if (this.compare(chunk[chunk.length - 1]!, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Returns the index of the chunk's first item that is not before `key`. */
  private indexIn(chunk: Item[], key: Key): number {
    let low = 0;
    let high = chunk.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.compare(chunk[middle]!, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
