/** Ctrl-C and SIGTERM: the first asks a command to stop where nothing is lost, the second stops it at once. */
import type { Output } from "./report.ts";

const SIGNALS = ["SIGINT", "SIGTERM"] as const;
/** As shells count it: 128 and the number of SIGINT. */
export const EXIT_INTERRUPTED = 130;

/** Runs the body with a signal that the first Ctrl-C aborts; `stopping` says then what the command does before it ends. */
export async function interruptible<T>(
  output: Output,
  stopping: string,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const interruption = new AbortController();
  const stop = (): void => {
    if (interruption.signal.aborted) process.exit(EXIT_INTERRUPTED);
    output.note(`${stopping} (again to stop at once)`);
    interruption.abort();
  };
  for (const signal of SIGNALS) process.on(signal, stop);
  try {
    return await body(interruption.signal);
  } finally {
    for (const signal of SIGNALS) process.off(signal, stop);
  }
}

/** Runs a body that writes all or nothing and throws the signal's reason where it is stopped, which is said; undefined then. */
export async function stoppable<T>(
  output: Output,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  return interruptible(output, "stopping", async (signal) => {
    try {
      return await body(signal);
    } catch (thrown) {
      if (!signal.aborted || thrown !== signal.reason) throw thrown;
      output.note("stopped: nothing was written");
      process.exitCode = EXIT_INTERRUPTED;
      return undefined;
    }
  });
}
