/**
 * Copies that run beside the computation. They bring weights early, and move boundaries to the host and back.
 */
import { empty } from "./create.ts";
import { pool } from "./device.ts";
import { type Device, type DType, isCard } from "./dtypes.ts";
import { handleOf } from "./handle.ts";
import { type Handle, native } from "./native.ts";
import { scope, type Tensor } from "./tensor.ts";

/**
 * A copy in progress. It keeps both tensors alive until somebody waits for it, on every device. So a plan and
 * a run free the memory at the same point.
 * Until then, write to neither tensor, and do not read `to`.
 */
export class PendingCopy implements Disposable {
  private copy: Handle;

  constructor(copy: Handle) {
    this.copy = copy;
  }

  /**
   * Makes the data visible to operators on the device that run after this call. Throws the copy's error if it
   * failed. On CUDA, the host is not blocked.
   */
  wait(): void {
    this.finish(false);
  }

  /**
   * Waits until the host can read the data too, for copies to the host that JavaScript reads. Throws like
   * `wait`.
   */
  waitOnHost(): void {
    this.finish(true);
  }

  /** Whether waiting would return at once, also if the copy failed. Waiting then throws the error. */
  get isDone(): boolean {
    try {
      return native.isCopied(this.copy);
    } catch {
      return true;
    }
  }

  /**
   * Resolves when the host can read the data or the copy has failed, without blocking the event loop. Throws
   * no error of the copy: `waitOnHost` does, and then need not wait.
   */
  arrival(): Promise<void> {
    return native.copyArrival(this.copy);
  }

  /**
   * Releases `from`: operators called after this may overwrite it, because the device runs them after the
   * copy. On CUDA, the host is not blocked. `to` must still be waited for.
   */
  letGoOfSource(): void {
    native.letGoOfSource(this.copy);
  }

  /** Waits if nobody has. Throws nothing, because it also runs while another error is handled. */
  [Symbol.dispose](): void {
    if (this.copy === 0) return;
    try {
      this.wait();
    } catch {} // the code that needs the data has failed already
  }

  private finish(onHost: boolean): void {
    const { copy } = this;
    this.copy = 0;
    native.waitCopy(copy, onHost);
  }
}

/**
 * Starts copying `from` into `to`. Both must be contiguous, have one dtype and shape, and share no memory;
 * throws otherwise.
 * `from` may be in a mapped file, in the host pool or on the device. `to` may be on the device or in the host
 * pool.
 * On CUDA, the copy begins after all work that is queued now. If host memory is not pinned, the copy goes
 * through two pinned buffers of 16 MiB.
 */
export function startCopy(to: Tensor, from: Tensor): PendingCopy {
  return new PendingCopy(native.startCopy(handleOf(to), handleOf(from)));
}

/** Number of copies that were started and not yet waited for. */
export function pendingCopies(): number {
  return native.pendingCopies();
}

/**
 * Bytes of the pinned buffers for copies to a card from host memory that is not pinned. The first such copy
 * allocates them in host memory, and they stay until the process ends.
 */
export const STAGING_BYTES = native.stagingBytes();

/** Times of the copies that were waited for since the last call. */
export interface CopyTimes {
  copies: number;
  bytes: number;
  /** Milliseconds that the copies took. */
  copyMs: number;
  /**
   * Milliseconds that the computation waited for copies: on a card its stream, on the CPU this thread. The
   * rest of copyMs was hidden.
   */
  waitedMs: number;
}

/** Starts or stops timing copies. For benchmarks: timing costs some microseconds per copy. */
export function timeCopies(on: boolean): void {
  native.timeCopies(on);
}

/** Returns the times since the last call. Call `synchronize` first: the card must be done with the copies. */
export function takeCopyTimes(): CopyTimes {
  const [copies = 0, bytes = 0, copyMs = 0, waitedMs = 0] = native.takeCopyTimes();
  return { copies, bytes, copyMs, waitedMs };
}

/**
 * Creates a tensor in the host pool of a device, with undefined contents. For a card, its memory is pinned.
 * On cpu and meta, it is the device's own memory, booked to the host pool.
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
