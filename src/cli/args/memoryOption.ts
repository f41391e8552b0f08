/** An amount of memory that was meant in another unit. */
import { formatBytes, UserError } from "../../errors.ts";

const MIB = 2 ** 20;

/** Throws UserError for so few bytes that nothing can be held in them: `--memory 12` is 12 bytes. */
export function refuseUnitless(memory: unknown): void {
  if (typeof memory !== "number" || memory >= MIB) return;
  throw new UserError(`--memory ${memory} is ${formatBytes(memory)}, which holds nothing.`, {
    fix: `Write the unit too, as in --memory ${memory}GiB.`,
  });
}
