/** The error of a group of ranks that is lost. It names the rank that is gone, and why. Needs no engine. */
import { messageOf, UserError } from "../../errors.ts";

/**
 * Says that ranks can't go on together. The group is lost for good: whoever catches this saves what it can
 * and ends. The launcher starts all ranks anew.
 */
export class LostPeersError extends UserError {
  /** The rank that failed first; undefined if nobody knows. */
  readonly rank: number | undefined;
  readonly host: string | undefined;
  readonly reason: string;

  constructor({ rank, host, reason }: { rank?: number; host?: string; reason: string }) {
    super(rank === undefined ? reason : `Rank ${rank} (host ${host}) is lost: ${reason}`, {
      fix: "Read what that rank printed last. Then start all ranks again; --resume continues from the last checkpoint.",
    });
    this.name = "LostPeersError";
    this.rank = rank;
    this.host = host;
    this.reason = reason;
  }
}

/**
 * Returns the loss of the group that an error tells of: the engine writes losses as JSON (native/group.h).
 * Undefined for all other errors, which are of this rank alone: all ranks would meet them again if they were
 * started anew.
 */
export function lossOf(thrown: unknown): LostPeersError | undefined {
  if (thrown instanceof LostPeersError) return thrown;
  const words = messageOf(thrown);
  if (!/^\{"(rank|reason)":/.test(words)) return undefined;
  return new LostPeersError(JSON.parse(words) as { rank?: number; host?: string; reason: string });
}
