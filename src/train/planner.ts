/** What a run plans with: the planner of its model on its device, and how much memory there is. */
import { openModelFolder, resolveModel } from "../checkpoint/folder.ts";
import { UserError } from "../errors.ts";
import { type Base, type HeadBase, readModelConfig } from "../models/spec.ts";
import { storedPrecision } from "../nn/quantizedNames.ts";
import type { Speed } from "../plan/cost.ts";
import { type Card, cardOfMemory, findDevice } from "../plan/devices.ts";
import { type Limits, Planner } from "../plan/search.ts";
import { cardInfo, cardMemory } from "../torch/device.ts";
import type { Device } from "../torch/tensor.ts";
import type { Compute } from "./compute.ts";

/** Only the order of policies follows from it, and that must not depend on the machine: a run may go on elsewhere, to the same bytes. */
const ANY_CPU: Speed = {
  flopsPerSecond: { float32: 1e11, bfloat16: 1e11 },
  attentionRatio: 0.5,
  memoryBytesPerSecond: 1e10,
  linkBytesPerSecond: 1e10,
  launchMs: 2e-3,
};

/** The planner of a checkpoint as it will be loaded. */
export function plannerOf(model: string, { dtype, device, base, headBase }: Compute): Planner {
  const folder = openModelFolder(resolveModel(model));
  try {
    const { weights } = folder;
    const stored = {
      base: base ?? storedPrecision("model.layers.0.attention.wqkv.weight", weights),
      headBase: headBase ?? storedPrecision("output.weight", weights),
    };
    const isStored =
      weights.entry("model.norm.weight").dtype === dtype && base === undefined && headBase === undefined;
    const target = device === "cpu" ? "cpu" : cardOf(device as `cuda:${number}`);
    return new Planner(
      {
        ...{ model: readModelConfig(folder), dtype, target, mapsWeights: isStored },
        ...{ base: stored.base as Base | undefined, headBase: stored.headBase as HeadBase | undefined },
      },
      target === "cpu" ? ANY_CPU : undefined,
    );
  } finally {
    folder.weights.close();
  }
}

/** What a run may take: as its options say, and else all of a card; undefined on a CPU without a word of it. */
export function limitsOf(
  { memory, host_memory }: { memory?: number | undefined; host_memory?: number | undefined },
  device: Device,
): Limits | undefined {
  if (device === "cpu" && memory === undefined && host_memory === undefined) return undefined;
  const free = device === "cpu" ? Number.POSITIVE_INFINITY : cardMemory(device as `cuda:${number}`).freeBytes;
  return { budgetBytes: memory ?? free, hostBytes: host_memory ?? Number.POSITIVE_INFINITY };
}

/** The table's card, or one like it of this one's capability. */
export function cardOf(device: `cuda:${number}`): Card {
  const { name, totalBytes, capability } = cardInfo(device);
  try {
    return findDevice(name);
  } catch (unknown) {
    if (!(unknown instanceof UserError)) throw unknown;
    const computeCapability = (capability / 10).toFixed(1) as Card["computeCapability"];
    return { ...cardOfMemory(totalBytes), computeCapability, memoryBytes: totalBytes };
  }
}
