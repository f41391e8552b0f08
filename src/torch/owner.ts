/** Ownership across the yields of a step, where no scope may stay open. */
import { dispose, keep } from "./tensor.ts";

/** Holds tensors, records of them, or what else is to be disposed, until they are freed one by one or all at once. */
export class Owner {
  readonly #owned = new Set<unknown>();

  /** Takes value out of every scope. */
  own<T>(value: T): T {
    this.#owned.add(keep(value));
    return value;
  }

  /** Frees what was owned; freeing it twice does nothing. */
  free(value: unknown): void {
    if (this.#owned.delete(value)) release(value);
  }

  [Symbol.dispose](): void {
    for (const value of this.#owned) release(value);
    this.#owned.clear();
  }
}

function release(value: unknown): void {
  if (typeof value === "object" && value !== null && Symbol.dispose in value)
    (value as Disposable)[Symbol.dispose]();
  else dispose(value);
}
