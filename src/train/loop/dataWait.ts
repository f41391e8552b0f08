/**
 * Waits for data. A device that still computes loses no time by it, and a run that is asked to stop no longer
 * waits.
 */

/** Milliseconds between two looks at a busy device. */
const LOOK_AGAIN_MS = 2;

export interface Waited<T> {
  value: T;
  /** Part of the wait in which the device had nothing to do. */
  stalledMs: number;
}

/**
 * Waits for a promise; returns undefined if the signal comes first, and then drops the value. A picture on a
 * disk that does not answer must not keep what was learned from being saved.
 */
export async function waitFor<T>(
  coming: Promise<T>,
  { signal, isBusy }: { signal: AbortSignal | undefined; isBusy: () => boolean },
): Promise<Waited<T> | undefined> {
  let idleSinceMs = isBusy() ? Number.POSITIVE_INFINITY : performance.now();
  const look = (): void => {
    if (isBusy()) return;
    idleSinceMs = performance.now();
    clearInterval(looking);
  };
  const looking = Number.isFinite(idleSinceMs) ? undefined : setInterval(look, LOOK_AGAIN_MS);
  try {
    const value = await unlessAborted(coming, signal);
    return value && { value: value.of, stalledMs: Math.max(0, performance.now() - idleSinceMs) };
  } finally {
    clearInterval(looking);
  }
}

async function unlessAborted<T>(
  coming: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<{ of: T } | undefined> {
  let stop = (): void => {};
  const aborted = new Promise<undefined>((resolve) => {
    stop = () => resolve(undefined);
  });
  signal?.addEventListener("abort", stop);
  coming.catch(() => {}); // it may fail when nobody waits any more
  try {
    return await Promise.race([coming.then((of) => ({ of })), aborted]);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
