/** Ownership across the yields of a step, where no scope may stay open. */
import { dispose, keep } from "./tensor.ts";

/**
 * Holds tensors, records of tensors and other disposables until they are freed, each by itself or all at
 * once.
 */
export class Owner {
  readonly #owned = new Set<unknown>();

  /** Takes ownership of a value, and removes it from every scope. */
  own<T>(value: T): T {
    this.#owned.add(keep(value));
    return value;
  }

  /** Frees an owned value. A second call does nothing. */
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
