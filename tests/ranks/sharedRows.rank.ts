/** A step whose rows the ranks share: its losses and gradients, and its memory beside the plan's. */
import { disposeLora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { loadingOf, Policy } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import {
  memoryStats,
  POOLS,
  resetPeak,
  setCap,
  setThreads,
  type TrackedDevice,
} from "../../src/torch/device.ts";
import { type Peers, plannedPeers } from "../../src/torch/peers/peers.ts";
import { randomLora, randomModel, runToEnd } from "../helpers/randomModel.ts";
import { batchOf, config } from "../helpers/smallPictures.ts";

export interface Args {
  samples: Parameters<typeof batchOf>[0];
  policy: unknown;
  dropout: number;
}

export interface Result {
  loss: number;
  evalLoss: number;
  /** By module and factor. */
  gradients: Record<string, number[]>;
  plannedBytes: number[];
  measuredBytes: number[];
  leftBytes: number;
}

export function step(
  { samples, policy: given, dropout }: Args,
  { device, sharers, capBytes }: { device: TrackedDevice; sharers: Peers; capBytes?: number },
): Omit<Result, "plannedBytes"> {
  setThreads(1);
  const policy = Policy.parse(given);
  const model = randomModel(config, { dtype: "float32", device, ...loadingOf(policy) });
  const lora = randomLora(config, { device, dropout });
  const batch = batchOf(samples);
  const live = POOLS.map((pool) => memoryStats(device, pool).liveBytes);
  for (const pool of POOLS) resetPeak(device, pool);
  if (capBytes !== undefined) setCap("cpu", live[0]! + capBytes);
  const seed = dropout > 0 ? { dropoutSeed: 3n } : {};
  const { loss } = runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1, sharers, ...seed }));
  const { loss: evalLoss } = runToEnd(evalStep(model, lora, batch, policy, { sharers }));
  const measuredBytes = POOLS.map((pool, index) => memoryStats(device, pool).peakBytes - live[index]!);
  const leftBytes = memoryStats(device).liveBytes - live[0]!;
  if (capBytes !== undefined) setCap("cpu", undefined);
  const gradients: Result["gradients"] = {};
  if (device === "cpu")
    for (const [name, { a, b }] of lora.modules) {
      gradients[`${name}.a`] = [...a.gradient!.toFloat32Array()];
      gradients[`${name}.b`] = [...b.gradient!.toFloat32Array()];
    }
  disposeLora(lora);
  disposeModel(model);
  return { loss, evalLoss, gradients, measuredBytes, leftBytes };
}

export async function rank(peers: Peers, args: Args): Promise<Result> {
  const planned = step(args, { device: "meta", sharers: plannedPeers(peers.rank, peers.count) });
  const capBytes = planned.measuredBytes[0]!;
  const measured = step(args, { device: "cpu", sharers: peers, capBytes });
  return { ...measured, plannedBytes: planned.measuredBytes };
}
