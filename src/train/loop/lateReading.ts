/**
 * A card computes beside the host, so what a micro-batch has come to is read when the next one is queued: the card never waits for work.
 * Whatever is saved, evaluated or told as an error comes after all that was queued before it has been told.
 */

/** What is told of a micro-batch when its numbers are there. Disposed where it is not told any more. */
export interface Telling extends Disposable {
  /** Whether they are, so that nobody waits. */
  isDone: boolean;
  /** Whether the device is still busy with it. */
  isBusy: () => boolean;
  tell(): Promise<void>;
}

/** At most one micro-batch whose numbers have not been read, with what comes of it. */
export class Late implements Disposable {
  #telling: Telling | undefined;
  /** What is told after it. */
  readonly #after: (() => Promise<void>)[] = [];

  /** Whether the device has something to do, for all that is known here. */
  isBusy(): boolean {
    return this.#telling?.isBusy() ?? false;
  }

  /** A micro-batch is queued: all before it is told, and it itself where that makes nobody wait. */
  async add(telling: Telling): Promise<void> {
    try {
      await this.all();
    } catch (thrown) {
      telling[Symbol.dispose]();
      throw thrown;
    }
    this.#telling = telling;
    if (telling.isDone) await this.all();
  }

  /** Tells when all micro-batches so far have been. */
  async follow(tell: () => Promise<void>): Promise<void> {
    this.#after.push(tell);
    if (!this.#telling) await this.all();
  }

  /** Tells all, in order. Where that throws, what comes after is not told any more. */
  async all(): Promise<void> {
    try {
      using telling = this.#telling;
      this.#telling = undefined;
      await telling?.tell();
      while (this.#after.length > 0) await this.#after.shift()!();
    } finally {
      this[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    this.#telling?.[Symbol.dispose]();
    this.#telling = undefined;
    this.#after.length = 0;
  }
}
