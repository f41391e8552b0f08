/** Amounts of memory that were given without their unit. */
import { formatBytes, UsageError, type UserError } from "./errors.ts";
import { commandLine } from "./program.ts";

const MIB = 2 ** 20;
/**
 * Above so many, a number without a unit was meant as MiB, which is how nvidia-smi shows memory; below, as
 * GiB.
 */
const MOST_GIB = 1024;

/**
 * Returns an error for so few bytes that nothing fits into them: `--memory 12` is 12 bytes. given: the amount
 * as it was written.
 */
export function unitlessError(spelled: string, memory: unknown, given: unknown = memory): UserError[] {
  if (typeof memory !== "number" || memory >= MIB || memory === 0) return [];
  if (/[a-z]/i.test(String(given)))
    return [
      new UsageError(`${spelled} ${given} is too little for anything.`, {
        fix: `Pass an amount such as 8GiB; ${commandLine("plan --solve memory")} finds the least.`,
      }),
    ];
  const unit = memory > MOST_GIB ? "MiB" : "GiB";
  return [
    new UsageError(`${spelled} ${memory} is ${formatBytes(memory)}, too little for anything.`, {
      fix: `Write the unit too: ${memory}${unit}.`,
    }),
  ];
}
