/** Whether other programs took the processor while something was measured. */
import { readFileSync } from "node:fs";
import { cpus } from "node:os";

export interface Busy {
  /** A clause: "other programs took 60 % of the processor while it was measured". */
  reason: string;
}

/** Share of the processor's time; every machine does a little beside. */
const MOST_RATIO = 0.1;

/** Milliseconds of all cores since the machine came up. */
export interface ProcessorTimes {
  /** In use, and taken away by whoever runs this virtual machine. */
  usedMs: number;
  stolenMs: number;
  totalMs: number;
  /** Milliseconds of this process. */
  ownMs: number;
}

/** Watches from now on. */
export function watchMachine(): { busy: () => Busy | undefined } {
  const before = processorTimes();
  return { busy: () => busyBetween(before, processorTimes()) };
}

/** Whether others took more of the processor than beside which times can be trusted. */
export function busyBetween(before: ProcessorTimes, after: ProcessorTimes): Busy | undefined {
  const since = (key: keyof ProcessorTimes): number => after[key] - before[key];
  if (since("totalMs") <= 0) return undefined;
  const others = (since("usedMs") - since("ownMs") + since("stolenMs")) / since("totalMs");
  if (others <= MOST_RATIO) return undefined;
  const percent = Math.round(100 * others);
  return { reason: `other programs took ${percent} % of the processor while it was measured` };
}

/**
 * Milliseconds that the clock would show of a call if no thread waited, by what this thread, the first, and
 * those that compute with it have had of the processor: others do as much of a call as this one, or nothing.
 * NaN where a thread seems to have had less than nothing, or no number: others have taken the place of some
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
 * Returns the time that Linux reports as stolen, in hundredths of a second: the eighth number of the first
 * line.
 */
function stolen(): number {
  try {
    return 10 * Number(readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!.split(/\s+/)[8] ?? 0);
  } catch {
    return 0; // another system
  }
}
