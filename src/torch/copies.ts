/** Copies that run beside the computing: weights are fetched ahead, boundary activations go to the host and come back. */
import { empty } from "./create.ts";
import { pool } from "./device.ts";
import { type Device, type DType, isCard } from "./dtypes.ts";
import { handleOf } from "./handle.ts";
import { type Handle, native } from "./native.ts";
import { scope, type Tensor } from "./tensor.ts";

/**
 * A copy under way. It keeps both tensors alive until it is waited for, on every device, so that their memory is freed
 * at the same time in a plan and in a run; until then nothing may write to either, nor read `to`.
 */
export class PendingCopy implements Disposable {
  private copy: Handle;

  constructor(copy: Handle) {
    this.copy = copy;
  }

  /** From here on, operators on the device see the data; throws what went wrong. On CUDA the host doesn't stop for it. */
  wait(): void {
    this.finish(false);
  }

  /** Waits until the host sees the data: for a copy to the host that JavaScript then reads. */
  waitOnHost(): void {
    this.finish(true);
  }

  /** Whether waiting for it would take no time. An error is told by waiting. */
  get isDone(): boolean {
    try {
      return native.isCopied(this.copy);
    } catch {
      return true;
    }
  }

  /** Settles when the host sees the data, while the event loop goes on; what went wrong `waitOnHost` throws, which waits no more then. */
  arrival(): Promise<void> {
    return native.copyArrival(this.copy);
  }

  /**
   * Frees `from` as far as the copy goes: operators may write over it from here on, as the device does so after it has copied. On CUDA
   * the host doesn't stop for it. `to` still has to be waited for.
   */
  letGoOfSource(): void {
    native.letGoOfSource(this.copy);
  }

  /** Waits where nobody has; for the way out of an error, so it throws none of its own. */
  [Symbol.dispose](): void {
    if (this.copy === 0) return;
    try {
      this.wait();
    } catch {} // whoever wanted the data has failed already
  }

  private finish(onHost: boolean): void {
    const { copy } = this;
    this.copy = 0;
    native.waitCopy(copy, onHost);
  }
}

/**
 * Starts copying `from` into `to`: contiguous, of one dtype and shape, without common memory; throws otherwise. `from` may lie
 * on a mapped file, in the host pool or on the device, `to` on the device or in the host pool. On CUDA the copy begins after
 * everything that is queued by now; from memory that isn't pinned it goes through two pinned buffers of 16 MiB.
 */
export function startCopy(to: Tensor, from: Tensor): PendingCopy {
  return new PendingCopy(native.startCopy(handleOf(to), handleOf(from)));
}

/** Copies started and not waited for yet. */
export function pendingCopies(): number {
  return native.pendingCopies();
}

/** Bytes of the pinned buffers through which other host memory reaches a card; they stay until the end. */
export const STAGING_BYTES = native.stagingBytes();

/** Copies that were waited for since the last time. */
export interface CopyTimes {
  copies: number;
  bytes: number;
  /** That they took. */
  copyMs: number;
  /** That whoever computes waited for them: on a card its stream, on the CPU this thread. The rest of copyMs was hidden. */
  waitedMs: number;
}

/** Times copies from here on, or no longer; for benches, as it costs some microseconds a copy. */
export function timeCopies(on: boolean): void {
  native.timeCopies(on);
}

/** Returns the times since the last call. Call `synchronize` first: the card must be done with the copies. */
export function takeCopyTimes(): CopyTimes {
  const [copies = 0, bytes = 0, copyMs = 0, waitedMs = 0] = native.takeCopyTimes();
  return { copies, bytes, copyMs, waitedMs };
}

/**
 * A buffer in the host pool that serves a device: pinned memory for a card; on cpu and meta memory of the same device, booked to
 * the host. Elements are whatever the memory held.
 */
export function emptyOnHost(
  shape: readonly number[],
  { dtype = "float32", device }: { dtype?: DType; device: Device },
): Tensor {
  const pinMemory = isCard(device);
  return pool("host", () =>
    scope(() => empty(shape, { dtype, device: pinMemory ? "cpu" : device, pinMemory })),
  );
}
