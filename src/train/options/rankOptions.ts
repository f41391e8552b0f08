/** Options of a run by several ranks. A run by one process accepts them too. */
import { z } from "zod";
import { count, group } from "../../options.ts";
import { intervalMs } from "./interval.ts";

const TIME = /^(?=[\d.]*[1-9])\d+(?:\.\d+)?\s*(?:s|sec|m|min|h)$/;

export const rankOptions = group("Several cards", {
  exact_sum: z.boolean().default(false).meta({
    help: "Add up gradients after each round of micro-batches, in their order: the adapter has the same bytes for any number of ranks, also for one. Ranks wait for each other after each micro-batch, and send gradients as often.",
  }),
  sequence_parallel: count.default(1).meta({
    help: "Ranks that share the rows of each sample, for samples too long for one card: attention by key/value heads, everything else by rows. The number of all ranks, which must divide the key/value heads. 1: each rank has samples of its own.",
  }),
  rank_timeout: z.stringFormat("time", TIME).default("60s").meta({
    help: "Time that a rank may show no sign of life before the others end the run. The longest such time of the run so far is added.",
    value: "TIME",
    takes: "a time such as 90s or 10min",
  }),
});

/** Returns the rank_timeout in milliseconds. */
export function rankTimeoutMs({ rank_timeout }: { rank_timeout: string }): number {
  return intervalMs(rank_timeout)!;
}
