/** What a run plans with: the planner of its model on its device, and how much memory there is. */
import { UserError } from "../../errors.ts";
import type { Bases } from "../../models/bases.ts";
import { ANY_CPU } from "../../nn/anyCpu.ts";
import { type Limits, type PlannedModel, Planner } from "../../plan/planner.ts";
import { knownSpeed } from "../../plan/time/calibration.ts";
import { type Card, findDevice, unknownCard } from "../../plan/time/cards.ts";
import type { Speed } from "../../plan/time/stepTime.ts";
import { cardInfo, cardMemory } from "../../torch/device.ts";
import type { Device, DType } from "../../torch/tensor.ts";
import type { OpenedModel } from "./openedModel.ts";

/** Of a CPU that nobody has measured; only the order of policies follows from it, and that is saved with a run. */
const UNMEASURED: Speed = {
  ...ANY_CPU,
  attentionRatios: { flash: 0.5, cudnn: 0.5, efficient: 0.5 },
  linkBytesPerSecond: ANY_CPU.memoryBytesPerSecond / 2, // a copy reads and writes
  ...{ kernelMs: 2e-3, launchMs: 0, callMs: 0 },
};

/** The planner of a checkpoint as it will be loaded. */
export function plannerOf(
  model: OpenedModel,
  { dtype, device, base, headBase, visionBase }: Bases & { dtype: PlannedModel["dtype"]; device: Device },
): Planner {
  const target = device === "cpu" ? "cpu" : cardOf(device as `cuda:${number}`);
  const loaded = loadedModel(model, { dtypeFor: () => dtype, base, headBase, visionBase });
  if (target !== "cpu") return new Planner({ ...loaded, target });
  return new Planner({ ...loaded, target }, knownSpeed(dtype) ?? UNMEASURED);
}

/** A checkpoint as it will be loaded: in precisions that are asked for, or as it is stored. */
export function loadedModel(
  { config, dtype: stored, bases: asStored }: OpenedModel,
  {
    dtypeFor,
    ...asked
  }: Bases & {
    /** Chooses what to compute in, from what norms are stored in. */
    dtypeFor: (stored: DType) => PlannedModel["dtype"];
  },
): Omit<PlannedModel, "target"> {
  const dtype = dtypeFor(stored);
  return {
    model: config,
    dtype,
    mapsWeights: stored === dtype,
    base: asked.base ?? asStored.base,
    headBase: asked.headBase ?? asStored.headBase,
    visionBase: asked.visionBase ?? asStored.visionBase,
    stored: asStored,
  };
}

/**
 * What a run may take: as its options say, on a card no more than other programs leave of it, which is all without a word; undefined on a CPU
 * without one.
 */
export function limitsOf(
  { memory, host_memory }: { memory?: number | undefined; host_memory?: number | undefined },
  device: Device,
): Limits | undefined {
  if (device === "cpu" && memory === undefined && host_memory === undefined) return undefined;
  return {
    budgetBytes: Math.min(memory ?? Number.POSITIVE_INFINITY, roomOn(device)),
    hostBytes: host_memory ?? Number.POSITIVE_INFINITY,
  };
}

/** Of a card what is free, what this process has reserved of it, and its context, which plans count; of a CPU's memory there is no end. */
function roomOn(device: Device): number {
  if (device === "cpu") return Number.POSITIVE_INFINITY;
  const card = device as `cuda:${number}`;
  const { freeBytes, reservedBytes } = cardMemory(card);
  return freeBytes + reservedBytes + cardOf(card).contextBytes;
}

/** The card that is there: as the table knows it, with the memory that it has. */
export function cardOf(device: `cuda:${number}`): Card {
  const info = cardInfo(device);
  try {
    return { ...findDevice(info.name), memoryBytes: info.totalBytes };
  } catch (unknown) {
    if (!(unknown instanceof UserError)) throw unknown;
    return unknownCard(info);
  }
}
