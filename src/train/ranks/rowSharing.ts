/** How the ranks of a run divide its work: whole micro-batches, or the rows of each one. */
import { UsageError, UserError } from "../../errors.ts";
import type { ModelConfig } from "../../models/family.ts";
import { refuseUnevenHeads } from "../../step/ownRows.ts";
import { type Policy, placesOf } from "../../step/policy.ts";
import type { Peers } from "../../torch/peers/peers.ts";
import type { Run } from "../loop/run.ts";
import type { TrainOptions } from "../options/options.ts";

interface Divided {
  peers: Peers;
  inputs: { options: Pick<TrainOptions, "sequence_parallel"> };
}

/** Returns the ranks that share the rows of each micro-batch; undefined if each rank has its own. */
export function sharersOf({ peers, inputs }: Divided): Peers | undefined {
  return inputs.options.sequence_parallel > 1 ? peers : undefined;
}

/** Returns who shares out the micro-batches of a step: the ranks, or all of them as one. */
export function workersOf(run: Divided): Pick<Peers, "rank" | "count"> {
  return sharersOf(run) ? { rank: 0, count: 1 } : run.peers;
}

/** Whether this rank's micro-batches count: ranks that share one count it once. */
export function counts(run: Divided): boolean {
  return sharersOf(run) === undefined || run.peers.rank === 0;
}

/** Throws UsageError if the ranks cannot share the rows of samples as the options say. */
export function checkRowSharing(
  peers: Peers,
  { sequence_parallel, exact_sum }: TrainOptions,
  config: Pick<ModelConfig, "kvHeads">,
): void {
  if (sequence_parallel === 1) return;
  refuseUnevenHeads(config, sequence_parallel);
  if (sequence_parallel !== peers.count) {
    const ranks = peers.count === 1 ? "one process" : `${peers.count} ranks`;
    const start = `start ${sequence_parallel}, for example with --gpus ${sequence_parallel}`;
    const works = config.kvHeads % peers.count === 0 ? peers.count : 1;
    throw new UsageError(`--sequence-parallel ${sequence_parallel} was given to ${ranks}.`, {
      fix: `All ranks share each sample: ${start}, or pass --sequence-parallel ${works}.`,
    });
  }
  if (!exact_sum) return;
  throw new UsageError(
    "--exact-sum adds up whole micro-batches, of which --sequence-parallel shares the rows.",
    {
      fix: "Leave one of them out.",
    },
  );
}

/** Throws UserError if ranks share both the rows of samples and the base, which are not ordered together. */
export function refuseSharedBase(policy: Policy, { sequence_parallel }: TrainOptions): void {
  if (sequence_parallel === 1 || !Object.values(placesOf(policy)).includes("shared")) return;
  throw new UserError(
    "The policy shares the base among ranks, and --sequence-parallel the rows of samples.",
    {
      fix: 'Leave --sequence-parallel out, or give the policy "weights": {"source": "resident"} or "streamed".',
    },
  );
}

/** Throws the error if ranks share rows: they cannot repeat a micro-batch alone under a leaner policy. */
export function requireAlone(run: Pick<Run, "peers" | "inputs">, error: () => Error): void {
  if (sharersOf(run)) throw error();
}
