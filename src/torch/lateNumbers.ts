/**
 * Numbers that a device has not computed yet. They are copied to the host without blocking, and read after
 * more work is queued.
 */
import { type PendingCopy, startCopy } from "./copies.ts";
import { empty } from "./create.ts";
import { computesBeside } from "./device.ts";
import { isCard } from "./dtypes.ts";
import { keep, type Tensor } from "./tensor.ts";

/** Numbers of a flat float32 or float64 tensor at the time of the call. On meta each number is NaN. */
export class LateNumbers implements Disposable {
  readonly #numbers: Tensor;
  readonly #copy: PendingCopy | undefined;

  /** Starts a copy to the host if `numbers` is on a card. The caller may free `numbers` at once. */
  constructor(numbers: Tensor) {
    if (!computesBeside(numbers.device)) {
      this.#numbers = keep(numbers.view([-1]));
      return;
    }
    const pinMemory = isCard(numbers.device);
    const onHost = empty(numbers.shape, { dtype: numbers.dtype, pinMemory });
    this.#copy = startCopy(onHost, numbers);
    this.#numbers = keep(onHost);
    this.#copy.letGoOfSource();
  }

  /** Whether the numbers were available at once, as on a CPU. */
  get areThere(): boolean {
    return this.#copy === undefined;
  }

  /** Whether the device still has to compute or copy them. */
  get areComing(): boolean {
    return this.#copy !== undefined && !this.#copy.isDone;
  }

  /** Resolves when the numbers are on the host, without blocking the event loop. */
  async arrival(): Promise<void> {
    await this.#copy?.arrival();
  }

  /** Waits for the numbers if needed, returns them and frees their memory. Call it once. */
  read(): Float32Array | Float64Array {
    this.#copy?.waitOnHost();
    const { device, numel } = this.#numbers;
    const numbers = device === "meta" ? new Float32Array(numel).fill(Number.NaN) : this.#numbers.toArray();
    this[Symbol.dispose]();
    return numbers as Float32Array | Float64Array;
  }

  [Symbol.dispose](): void {
    this.#copy?.[Symbol.dispose]();
    this.#numbers.dispose();
  }
}
