/** Ownership across the yields of a step, where no scope may stay open. */
import { dispose, keep } from "../torch/tensor.ts";

/** Holds tensors, or records of them, until they are freed one by one or all at once. */
export class Owner {
  readonly #owned = new Set<unknown>();

  /** Takes value out of every scope. */
  own<T>(value: T): T {
    this.#owned.add(keep(value));
    return value;
  }

  /** Frees what was owned; freeing it twice does nothing. */
  free(value: unknown): void {
    if (this.#owned.delete(value)) dispose(value);
  }

  [Symbol.dispose](): void {
    for (const value of this.#owned) dispose(value);
    this.#owned.clear();
  }
}
