/**
 * Stops a command on Ctrl-C, SIGTERM, a closed terminal, or if nobody reads its output any more. The first
 * signal lets it stop where nothing is lost; a second Ctrl-C stops it at once.
 */
import { isatty } from "node:tty";
import { faultOf } from "../../errors.ts";
import { EXIT_INTERRUPTED, SAME_SIGNAL_MS, SIGNALS } from "../../launch/exitCodes.ts";
import type { Output } from "./output.ts";

export { EXIT_INTERRUPTED };

const EXIT_FAILED = 1;

export interface Interruption {
  signal: AbortSignal;
  /** Starts to handle signals. Before, they end the process as usual, even during long synchronous work. */
  listen: () => void;
}

/** Functions that ask the running commands to stop. */
const running = new Set<() => void>();

/**
 * Runs the body with a signal that the first Ctrl-C after `listen` aborts; `stopping` is then printed: what
 * the command does before it ends. A command that saves nothing ends at once if nobody reads its output.
 */
export async function interruptible<T>(
  output: Output,
  stopping: string,
  body: (interruption: Interruption) => Promise<T>,
  { saves = true } = {},
): Promise<T> {
  const interruption = new AbortController();
  const hasTerminal = [0, 1, 2].some((file) => isatty(file)); // a closed terminal does not count
  let isHungUp = false;
  let askedAtMs = 0;
  const ask = (): void => {
    if (interruption.signal.aborted) return;
    askedAtMs = performance.now();
    output.note(`${stopping} (again to stop at once)`);
    interruption.abort();
  };
  const hear = (name: NodeJS.Signals): void => {
    if (name === "SIGHUP" && !hasTerminal) return; // nohup ignores it, but Node handles it all the same
    isHungUp ||= name === "SIGHUP";
    if (!interruption.signal.aborted) ask();
    else if (performance.now() - askedAtMs >= SAME_SIGNAL_MS) process.exit(EXIT_INTERRUPTED);
  };
  const listen = (): void => {
    if (saves) running.add(ask);
    for (const signal of SIGNALS) process.on(signal, hear);
  };
  try {
    return await body({ signal: interruption.signal, listen });
  } finally {
    running.delete(ask);
    for (const signal of SIGNALS) process.off(signal, hear);
    if (isHungUp) process.kill(process.pid, "SIGHUP"); // Node's own exit aborts if its terminal is gone
  }
}

/**
 * Runs a body that writes all or nothing. If it is stopped, it throws the signal's reason: says so and
 * returns undefined.
 */
export async function stoppable<T>(
  output: Output,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  return interruptible(output, "stopping", async ({ signal, listen }) => {
    listen();
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

/**
 * Keeps a command alive if its output can't be written: Ctrl-C ends `tee` too, and a message then must not
 * end the run before it has saved. Without stdout the command stops, at once if it has nothing to save.
 * Without stderr it continues.
 */
export function outliveReaders({ stdout, stderr }: Pick<NodeJS.Process, "stdout" | "stderr">): void {
  stderr.on("error", () => {});
  let isGone = false;
  stdout.on("error", (cause: NodeJS.ErrnoException) => {
    if (isGone) return;
    isGone = true;
    const hasEnough = cause.code === "EPIPE" || cause.code === "EIO"; // the reader, such as head; the terminal
    if (!hasEnough) stderr.write(`error: the output can't be written: ${faultOf(cause)}\n`);
    if (running.size === 0) process.exit(hasEnough ? 0 : EXIT_FAILED);
    for (const ask of running) ask();
  });
}
