/** Makes the planner of a model on its device, and finds the memory limits of a run. */
import { UserError } from "../../errors.ts";
import type { Bases } from "../../models/precision/bases.ts";
import { ANY_CPU } from "../../nn/anyCpu.ts";
import { type Limits, type PlannedModel, Planner } from "../../plan/planner.ts";
import { usableMachineBytes } from "../../plan/roomToPlanFor.ts";
import { knownSpeed } from "../../plan/time/calibration.ts";
import { type Card, findDevice, unknownCard } from "../../plan/time/cards.ts";
import type { Speed } from "../../plan/time/stepTime.ts";
import { cardInfo, cardMemory } from "../../torch/device.ts";
import { isCard } from "../../torch/dtypes.ts";
import type { Device, DType } from "../../torch/tensor.ts";
import type { OpenedModel } from "./openedModel.ts";

/**
 * Speed of a CPU that was not measured. Only the order of policies depends on it, and a run saves its
 * policies.
 */
export const UNMEASURED: Speed = {
  ...ANY_CPU,
  attentionRatios: { flash: 0.5, cudnn: 0.5, efficient: 0.5 },
  linkBytesPerSecond: ANY_CPU.memoryBytesPerSecond / 2, // a copy reads and writes
  ...{ kernelMs: 2e-3, launchMs: 0, callMs: 0 },
};

/** Returns the planner of a checkpoint as it will be loaded. */
export function plannerOf(
  model: OpenedModel,
  { dtype, device, base, headBase, visionBase }: Bases & { dtype: PlannedModel["dtype"]; device: Device },
): Planner {
  const target = isCard(device) ? cardOf(device) : "cpu";
  const loaded = loadedModel(model, { dtypeFor: () => dtype, base, headBase, visionBase });
  if (target !== "cpu") return new Planner({ ...loaded, target });
  return new Planner({ ...loaded, target }, knownSpeed(dtype) ?? UNMEASURED);
}

/** Describes a checkpoint as it will be loaded: in the precisions that are asked for, or as it is stored. */
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
 * Returns the memory limits of a run: those of its options, on a card at most what other programs leave.
 * Undefined on a CPU if no option sets a limit.
 */
export function limitsOf(
  { memory, host_memory }: { memory?: number | undefined; host_memory?: number | undefined },
  device: Device,
): Limits | undefined {
  if (device === "cpu" && memory === undefined && host_memory === undefined) return undefined;
  return {
    budgetBytes: Math.min(memory ?? Number.POSITIVE_INFINITY, roomOn(device)),
    hostBytes: host_memory ?? hostRoomOf(device),
  };
}

/**
 * Returns the host memory that a run beside a card may use: this machine's. Infinity on a CPU, whose memory
 * it is.
 */
export function hostRoomOf(device: Device): number {
  return device === "cpu" ? Number.POSITIVE_INFINITY : usableMachineBytes();
}

/**
 * Returns the bytes of a card that are free or reserved by this process, with the context, which plans count;
 * Infinity on a CPU.
 */
function roomOn(device: Device): number {
  if (!isCard(device)) return Number.POSITIVE_INFINITY;
  const { freeBytes, reservedBytes } = cardMemory(device);
  return freeBytes + reservedBytes + cardOf(device).contextBytes;
}

/** Describes the card in this machine: as in the table of cards, with the memory that it has. */
export function cardOf(device: `cuda:${number}`): Card {
  const info = cardInfo(device);
  try {
    return { ...findDevice(info.name), memoryBytes: info.totalBytes };
  } catch (unknown) {
    if (!(unknown instanceof UserError)) throw unknown;
    return unknownCard(info);
  }
}
