/**
 * What asks a command to stop: Ctrl-C, SIGTERM, a terminal that is closed, and output that nobody reads any more. The first lets it stop where
 * nothing is lost; a second Ctrl-C stops it at once.
 */
import { isatty } from "node:tty";
import { faultOf } from "../../errors.ts";
import type { Output } from "./output.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** As shells count it: 128 and the number of SIGINT. */
export const EXIT_INTERRUPTED = 130;
const EXIT_FAILED = 1;

/** Signals that come this soon after the first are the same one: shells pass on a hang-up, and npx a Ctrl-C that the terminal has sent. */
export const SAME_SIGNAL_MS = 500;

export interface Interruption {
  signal: AbortSignal;
  /** From here on signals are heard. Until then they end the process as they always do, even while nothing else gets its turn. */
  listen: () => void;
}

/** How the commands that are running are asked to stop. */
const running = new Set<() => void>();

/** Runs the body with a signal that the first Ctrl-C after `listen` aborts; `stopping` says then what the command does before it ends. One that saves nothing ends at once where nobody reads it. */
export async function interruptible<T>(
  output: Output,
  stopping: string,
  body: (interruption: Interruption) => Promise<T>,
  { saves = true } = {},
): Promise<T> {
  const interruption = new AbortController();
  const hasTerminal = [0, 1, 2].some((file) => isatty(file)); // one that is closed is none any more
  let isHungUp = false;
  let askedAtMs = 0;
  const ask = (): void => {
    if (interruption.signal.aborted) return;
    askedAtMs = performance.now();
    output.note(`${stopping} (again to stop at once)`);
    interruption.abort();
  };
  const hear = (name: NodeJS.Signals): void => {
    if (name === "SIGHUP" && !hasTerminal) return; // nohup has it ignored, which Node undoes
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
    if (isHungUp) process.kill(process.pid, "SIGHUP"); // Node's own way out aborts where its terminal is gone
  }
}

/** Runs a body that writes all or nothing and throws the signal's reason where it is stopped, which is said; undefined then. */
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
 * Keeps a command alive whose output can't be written: Ctrl-C ends `tee` too, and what is then said must not end the run before it has saved.
 * Without stdout it stops, at once where it has nothing to save; without stderr it goes on.
 */
export function outliveReaders({ stdout, stderr }: Pick<NodeJS.Process, "stdout" | "stderr">): void {
  stderr.on("error", () => {});
  let isGone = false;
  stdout.on("error", (cause: NodeJS.ErrnoException) => {
    if (isGone) return;
    isGone = true;
    const hasEnough = cause.code === "EPIPE" || cause.code === "EIO"; // the reader, such as head; the terminal
    if (!hasEnough) stderr.write(`error: what is printed can't be written: ${faultOf(cause)}\n`);
    if (running.size === 0) process.exit(hasEnough ? 0 : EXIT_FAILED);
    for (const ask of running) ask();
  });
}
