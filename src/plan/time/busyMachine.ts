/** Detects whether other programs used the processor during a measurement. */
import { readFileSync } from "node:fs";
import { cpus } from "node:os";

export interface Busy {
  /** A clause: "other programs took 60 % of the processor while it was measured". */
  reason: string;
}

/** Share of the processor's time that others may use. Every machine does a little in the background. */
const MOST_RATIO = 0.1;

/** Milliseconds of all cores since the machine started. */
export interface ProcessorTimes {
  /** Time in use. stolenMs: taken by the host of this virtual machine. */
  usedMs: number;
  stolenMs: number;
  totalMs: number;
  /** Milliseconds of this process. */
  ownMs: number;
}

/** Starts to watch. busy(): whether other programs were too busy since then. */
export function watchMachine(): { busy: () => Busy | undefined } {
  const before = processorTimes();
  return { busy: () => busyBetween(before, processorTimes()) };
}

/** Returns how busy other programs were; undefined if times can be trusted. */
export function busyBetween(before: ProcessorTimes, after: ProcessorTimes): Busy | undefined {
  const since = (key: keyof ProcessorTimes): number => after[key] - before[key];
  if (since("totalMs") <= 0) return undefined;
  const others = (since("usedMs") - since("ownMs") + since("stolenMs")) / since("totalMs");
  if (others <= MOST_RATIO) return undefined;
  const percent = Math.round(100 * others);
  return { reason: `other programs took ${percent} % of the processor while it was measured` };
}

/**
 * Returns the milliseconds that a call would take if no thread waited. threadsMs: processor time of this
 * thread (first) and of the threads that compute with it. Each of the others does as much of a call as this
 * one, or nothing. NaN if a value is negative or no number, because some threads were replaced by others
 * meanwhile.
 */
export function pathOf(threadsMs: readonly number[]): number {
  if (!threadsMs.every((ms) => ms >= 0)) return Number.NaN;
  return Math.max(threadsMs[0]!, threadsMs.reduce((sum, ms) => sum + ms, 0) / threadsMs.length);
}

function processorTimes(): ProcessorTimes {
  const { user, system } = process.cpuUsage();
  const times = cpus().map(({ times }) => times);
  const sum = (key: "user" | "nice" | "sys" | "irq" | "idle"): number =>
    times.reduce((total, core) => total + core[key], 0);
  const usedMs = sum("user") + sum("nice") + sum("sys") + sum("irq");
  const stolenMs = stolen();
  return { usedMs, stolenMs, totalMs: usedMs + sum("idle") + stolenMs, ownMs: (user + system) / 1000 };
}

/**
 * Returns the milliseconds that Linux reports as stolen: the eighth number of the first line, in hundredths
 * of a second.
 */
function stolen(): number {
  try {
    return 10 * Number(readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!.split(/\s+/)[8] ?? 0);
  } catch {
    return 0; // not Linux
  }
}
