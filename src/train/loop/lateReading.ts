/**
 * Reads a micro-batch's numbers when the next micro-batch is queued, so that a card, which computes beside
 * the host, never waits for work. Before anything is saved, evaluated or thrown, everything that was queued
 * earlier is reported.
 */

/** The report of a queued micro-batch. It is disposed if it is not made. */
export interface Telling extends Disposable {
  /** Whether the numbers are there, so that reading them does not wait. */
  isDone: boolean;
  /** Whether the device is still busy with it. */
  isBusy: () => boolean;
  tell(): Promise<void>;
}

/** At most one micro-batch whose numbers have not been read, with what comes of it. */
export class Late implements Disposable {
  #telling: Telling | undefined;
  /** Reports that follow it. */
  readonly #after: (() => Promise<void>)[] = [];

  /** Whether the device is still busy with the micro-batch. */
  isBusy(): boolean {
    return this.#telling?.isBusy() ?? false;
  }

  /** Adds a queued micro-batch. Reports all before it, and itself if its numbers are there. */
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

  /** Adds a report that follows those of all micro-batches so far. */
  async follow(tell: () => Promise<void>): Promise<void> {
    this.#after.push(tell);
    if (!this.#telling) await this.all();
  }

  /** Makes all reports, in order. If one throws, the following are not made. */
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
