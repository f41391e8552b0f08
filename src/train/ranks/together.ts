/** Parts of a run, beside its loop, with which it trains together with other ranks. */
import type { BatchOptions } from "../../data/stream/batches.ts";
import { createGradientSum, type GradientSum, sumOverlaps } from "../../step/optimizer/gradientSum.ts";
import { layerGradientsOf } from "../../step/optimizer/optimizer.ts";
import type { Peers } from "../../torch/peers/peers.ts";
import type { Run } from "../loop/run.ts";
import type { TrainOptions } from "../options/options.ts";
import type { RunPlan } from "../planning/policyByLength.ts";
import { sharersOf, workersOf } from "./rowSharing.ts";
import { Shares } from "./shares.ts";

export interface Together extends AsyncDisposable {
  peers: Peers;
  /** Whether gradients are added up after each round of micro-batches, in their order. */
  exact: boolean;
  sum: GradientSum;
  shares: Shares;
}

/** Whether steps are taken together: by several ranks, or by one in the way of several. */
export function isTogether({
  peers,
  inputs,
}: {
  peers: Pick<Peers, "count">;
  inputs: { options: Pick<TrainOptions, "exact_sum"> };
}): boolean {
  return peers.count > 1 || inputs.options.exact_sum;
}

/** Whether this process writes into the output folder: rank 0. */
export function isWriter({ peers }: Pick<Run, "peers">): boolean {
  return peers.rank === 0;
}

/** Opens the shares of a run. batches: its whole stream of micro-batches. */
export function openTogether(
  { peers, inputs, loaded }: Pick<Run, "peers" | "inputs" | "loaded">,
  batches: BatchOptions,
): Together {
  const { rank, count: ranks } = workersOf({ peers, inputs });
  const exact = inputs.options.exact_sum;
  const shares = new Shares({ ...batches, rank, ranks, inOrder: exact });
  return {
    peers,
    exact,
    sum: loaded.sum!,
    shares,
    [Symbol.asyncDispose]: () => shares[Symbol.asyncDispose](),
  };
}

/** Makes the buffers in which gradients are added up; undefined for a process that needs none. */
export function gradientSumOf(
  run: Pick<Run, "peers" | "inputs">,
  { parameters }: Run["loaded"]["optimizer"],
  { policy, gradientCopy }: Pick<RunPlan, "policy" | "gradientCopy">,
): GradientSum | undefined {
  if (!isTogether(run)) return undefined;
  const exact = run.inputs.options.exact_sum;
  const sharesRows = sharersOf(run) !== undefined;
  const overlaps = sumOverlaps({
    policy,
    exactSum: exact,
    sharesRows,
    keepsCopy: gradientCopy !== undefined,
  });
  return createGradientSum(run.peers, layerGradientsOf(parameters), { exact, overlaps });
}
