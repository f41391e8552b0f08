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

/** Turns the engine's words of a loss, or of a failed connection, into the error. */
export function lossOf(thrown: unknown): UserError {
  if (thrown instanceof UserError) return thrown;
  const words = messageOf(thrown);
  if (!words.startsWith('{"rank":')) return new LostPeersError({ reason: words });
  return new LostPeersError(JSON.parse(words) as { rank: number; host: string; reason: string });
}
