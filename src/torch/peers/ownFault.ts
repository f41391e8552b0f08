/** Tells a rank's own errors among collectives from those of a lost group. */
import { UserError } from "../../errors.ts";
import { OutOfMemoryError } from "../device.ts";

/** Returns whether an error is of this rank alone, though it came up among collectives. */
export function isOwnFault(thrown: unknown): boolean {
  if (!(thrown instanceof Error)) return true;
  const kinds = [UserError, TypeError, OutOfMemoryError];
  return kinds.some((kind) => thrown instanceof kind) || /: ranks start different/.test(thrown.message);
}
