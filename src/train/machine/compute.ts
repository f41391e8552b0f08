/** Decides where and in which type to compute on this machine, and measures what its memory holds. */
import { formatBytes, GIB, UserError } from "../../errors.ts";
import type { Bases } from "../../models/precision/bases.ts";
import { hasFullAbsmax } from "../../models/precision/storedBases.ts";
import type { LoadOptions } from "../../models/weights.ts";
import { zeros } from "../../torch/create.ts";
import {
  CARD_ABILITIES,
  type Category,
  cardInfo,
  cardMemory,
  category,
  cudaDevices,
  cudaProblem,
  emptyCache,
  memoryStats,
  POOLS,
  type Pool,
  resetPeak,
  setCap,
  setThreads,
  useCard,
} from "../../torch/device.ts";
import { isCard } from "../../torch/dtypes.ts";
import { cardProblem } from "../../torch/install/cudaBuilds.ts";
import { whyCardIdles, whyNoCard } from "../../torch/install/driver.ts";
import { findLibtorch } from "../../torch/install/libtorch.ts";
import { tryCompiling, whyTwins } from "../../torch/kernels/fusedKernel.ts";
import { type Device, type DType, scope } from "../../torch/tensor.ts";
import { cardOf } from "./modelPlanner.ts";
import type { OpenedModel } from "./openedModel.ts";

export interface ComputeOptions {
  dtype?: "fp32" | "bf16" | "fp16" | undefined;
  device?: Device | undefined;
  threads?: number | undefined;
  memory?: number | undefined;
  host_memory?: number | undefined;
  base?: Bases["base"];
  head_base?: Bases["headBase"];
  vision_base?: Bases["visionBase"];
}

/** Device, type and precisions that a model is loaded with. */
export interface Compute extends LoadOptions {
  dtype: "float32" | "bfloat16" | "float16";
}

export const DTYPES = { fp32: "float32", bf16: "bfloat16", fp16: "float16" } as const satisfies Record<
  string,
  DType
>;

/**
 * Sets threads and memory caps of the process, and returns where and in which type to compute. Throws
 * UserError if the device is missing.
 */
export function startCompute(model: Pick<OpenedModel, "dtype">, options: ComputeOptions): Compute {
  const device = chooseDevice(options.device);
  if (isCard(device)) useCard(device);
  if (options.threads !== undefined) setThreads(options.threads);
  setCap(device, options.memory && tensorBytes(options.memory, device));
  setCap(device, options.host_memory, "host");
  if (isCard(device)) {
    tryCompiling(cardInfo(device).capability);
    claimWorkspaces(device);
  }
  return {
    dtype: options.dtype ? DTYPES[options.dtype] : usualType(model, device),
    device,
    ...basesOf(options),
  };
}

/** Returns the precisions that options name. */
export function basesOf({
  base,
  head_base,
  vision_base,
}: Pick<ComputeOptions, "base" | "head_base" | "vision_base">): Bases {
  return { base, headBase: head_base, visionBase: vision_base };
}

/** Reports what is rounded as a checkpoint is read. */
export function noticeStored({ files: { weights } }: OpenedModel, notice: (text: string) => void): void {
  if (!hasFullAbsmax(weights)) return;
  notice(
    `${weights.place}: its NF4 is without double quantisation; the largest magnitudes of blocks are rounded to 8 bits, as --base nf4 has them`,
  );
}

/**
 * Returns the device that was asked for, else the first GPU, else the CPU. Throws UserError if the device is
 * missing.
 */
export function chooseDevice(asked: Device | undefined): Device {
  const devices = cudaDevices();
  const device = asked ?? (devices > 0 ? "cuda:0" : "cpu");
  if (!isCard(device)) return device;
  if (Number(device.slice("cuda:".length)) >= devices) throw noDevice(device, devices);
  refuseForeignCard(device);
  return device;
}

/**
 * Throws UserError for a card that this libtorch has no kernels for: its first operator would fail without a
 * reason.
 */
function refuseForeignCard(device: `cuda:${number}`): void {
  const lacking = cardProblem(findLibtorch().cudaVersion, cardInfo(device).capability);
  if (lacking) throw new UserError(`${device} can't be used: ${lacking.why}.`, { fix: lacking.fix });
}

/** Reports why a card is left idle, if no device was asked for. */
export function noticeIdleCard(
  asked: Device | undefined,
  notice: (text: string, about: "idleCard") => void,
): void {
  if (asked !== undefined || cudaDevices() > 0) return;
  const text = whyCardIdles(findLibtorch(), cudaProblem());
  if (text) notice(text, "idleCard");
}

/** Reports why lorafit's own kernels can't be compiled for a card, once startCompute has tried. */
export function noticeTwins(device: Device, notice: (text: string) => void): void {
  const problem = device === "cpu" ? undefined : whyTwins();
  if (problem) notice(`lorafit's own kernels can't be used, so libtorch's do their work, slower: ${problem}`);
}

/** Returns the bytes of a memory limit that are left for tensors. Throws UserError if none are left. */
function tensorBytes(budgetBytes: number, device: Device): number {
  const outside = outsideBytes(device);
  if (budgetBytes > outside) return budgetBytes - outside;
  throw new UserError(
    `--memory ${formatBytes(budgetBytes)} leaves nothing for tensors on ${device}, where CUDA's context needs about ${formatBytes(outside)}`,
    { fix: "Pass more; lorafit plan --solve memory says how much is enough." },
  );
}

/** Bytes of a device's memory that hold no allocation: CUDA's context. */
export function outsideBytes(device: Device): number {
  return isCard(device) ? cardOf(device).contextBytes : 0;
}

/**
 * Makes libraries allocate their workspaces now, so that they are counted as workspace and not to the first
 * product.
 */
function claimWorkspaces(device: Device): void {
  category("workspace", () =>
    scope(() => {
      const x = zeros([16, 16], { device });
      x.mm(x);
      x.linear(x, { bias: zeros([16], { device }) }); // cuBLASLt has a workspace of its own
    }),
  );
}

/**
 * Bytes of other programs that are reported; fewer may be a context that is larger than in the table of
 * cards.
 */
const NOTED_BYTES = GIB;

/** Returns "other programs hold 60.2 GiB of cuda:0"; undefined if they hold little. */
export function heldByOthers(device: Device): string | undefined {
  if (!isCard(device)) return undefined;
  const { totalBytes, freeBytes, reservedBytes } = cardMemory(device);
  const bytes = totalBytes - freeBytes - reservedBytes - outsideBytes(device);
  return bytes < NOTED_BYTES ? undefined : `other programs hold ${formatBytes(bytes)} of ${device}`;
}

/** Removes the memory caps of this process. */
export function liftCaps(device: Device): void {
  setCap(device, undefined);
  setCap(device, undefined, "host");
}

/** Peak bytes of both pools, and what was alive at the peak. */
export type Peaks = Record<Pool, { bytes: number; categories: Record<Category, number> }> & Reserved;

/** Peak bytes that a card's caching allocator holds, in use or not; undefined on the CPU. */
export interface Reserved {
  reservedBytes?: number | undefined;
}

/** Returns the peaks since the last resetPeaks. */
export function peaksOf(device: Device): Peaks {
  const peakOf = (pool: Pool): Peaks[Pool] => {
    const { peakBytes, peakByCategory } = memoryStats(device, pool);
    return { bytes: peakBytes, categories: peakByCategory };
  };
  const pools = { device: peakOf("device"), host: peakOf("host") };
  return isCard(device) ? { ...pools, reservedBytes: cardMemory(device).peakReservedBytes } : pools;
}

/** Starts counting peaks anew, from what is alive. */
export function resetPeaks(device: Device): void {
  for (const pool of POOLS) resetPeak(device, pool);
}

/** Frees what a card's allocator holds unused. */
export function freeCache(device: Device): void {
  if (isCard(device)) emptyCache(device);
}

/**
 * Chooses float32 for a checkpoint that is stored in it, else bfloat16, or float16 on a card without
 * bfloat16.
 */
function usualType({ dtype }: Pick<OpenedModel, "dtype">, device: Device): Compute["dtype"] {
  return dtype === "float32" ? "float32" : halfOf(device);
}

function halfOf(device: Device): "bfloat16" | "float16" {
  return !isCard(device) || cardInfo(device).capability >= CARD_ABILITIES.bf16 ? "bfloat16" : "float16";
}

function noDevice(device: Device, devices: number): UserError {
  if (devices > 0) {
    return new UserError(
      `There is no ${device}: this machine has ${devices} GPUs, cuda:0 to cuda:${devices - 1}.`,
      {
        fix: `Pass one of them, for example --device cuda:0.`,
      },
    );
  }
  const { why, fix } = whyNoCard(findLibtorch(), cudaProblem());
  return new UserError(`${device} can't be used: ${why}.`, { fix });
}
