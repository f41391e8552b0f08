/** What the options of device, type and memory come to on this machine. */
import { formatBytes, GIB, UserError } from "../../errors.ts";
import type { Bases } from "../../models/bases.ts";
import { hasFullAbsmax } from "../../models/storedBases.ts";
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

/** How a model is loaded. */
export interface Compute extends LoadOptions {
  dtype: "float32" | "bfloat16" | "float16";
}

export const DTYPES = { fp32: "float32", bf16: "bfloat16", fp16: "float16" } as const satisfies Record<
  string,
  DType
>;

/** Sets threads and memory cap of the process, and says where and in which type to compute. Throws UserError without that device. */
export function startCompute(model: Pick<OpenedModel, "dtype">, options: ComputeOptions): Compute {
  const device = chooseDevice(options.device);
  if (device !== "cpu") useCard(device as `cuda:${number}`);
  if (options.threads !== undefined) setThreads(options.threads);
  setCap(device, options.memory && tensorBytes(options.memory, device));
  setCap(device, options.host_memory, "host");
  if (device !== "cpu") {
    tryCompiling(cardInfo(device as `cuda:${number}`).capability);
    claimWorkspaces(device);
  }
  return {
    dtype: options.dtype ? DTYPES[options.dtype] : usualType(model, device),
    device,
    ...basesOf(options),
  };
}

/** The precisions that options name. */
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

/** The device that was asked for, else the first GPU, else the CPU. Throws UserError where it is not there. */
export function chooseDevice(asked: Device | undefined): Device {
  const devices = cudaDevices();
  const device = asked ?? (devices > 0 ? "cuda:0" : "cpu");
  if (device.startsWith("cuda") && Number(device.slice("cuda:".length)) >= devices)
    throw noDevice(device, devices);
  if (device !== "cpu") refuseForeignCard(device as `cuda:${number}`);
  return device;
}

/** Throws UserError for a card that this libtorch has no kernels for: its first operator would fail without saying why. */
function refuseForeignCard(device: `cuda:${number}`): void {
  const lacking = cardProblem(findLibtorch().cudaVersion, cardInfo(device).capability);
  if (lacking) throw new UserError(`${device} can't be used: ${lacking.why}.`, { fix: lacking.fix });
}

/** Says, where no device was asked for, that a card is left idle, and why. */
export function noticeIdleCard(
  asked: Device | undefined,
  notice: (text: string, about: "idleCard") => void,
): void {
  if (asked !== undefined || cudaDevices() > 0) return;
  const text = whyCardIdles(findLibtorch(), cudaProblem());
  if (text) notice(text, "idleCard");
}

/** Says of a card that kernels of our own can't be compiled for it, once startCompute has tried. */
export function noticeTwins(device: Device, notice: (text: string) => void): void {
  const problem = device === "cpu" ? undefined : whyTwins();
  if (problem) notice(`lorafit's own kernels can't be used, so libtorch's do their work, slower: ${problem}`);
}

/** What is left of a budget for tensors. Throws UserError where that is nothing. */
function tensorBytes(budgetBytes: number, device: Device): number {
  const outside = outsideBytes(device);
  if (budgetBytes > outside) return budgetBytes - outside;
  throw new UserError(
    `--memory ${formatBytes(budgetBytes)} leaves nothing for tensors on ${device}, where CUDA's context takes about ${formatBytes(outside)}`,
    { fix: "Pass more; lorafit plan --solve memory says how much is enough." },
  );
}

/** What a device's memory holds beside what is allocated: CUDA's context. */
function outsideBytes(device: Device): number {
  return device === "cpu" ? 0 : cardOf(device as `cuda:${number}`).contextBytes;
}

/** Lets libraries allocate what they hold throughout now, that it is booked as theirs and not to whoever multiplies first. */
function claimWorkspaces(device: Device): void {
  category("workspace", () =>
    scope(() => {
      const x = zeros([16, 16], { device });
      x.mm(x);
      x.linear(x, { bias: zeros([16], { device }) }); // cuBLASLt's own
    }),
  );
}

/** What other programs must hold of a card to be worth a word; below, it may be a context that is larger than the table has it. */
const NOTED_BYTES = GIB;

/** "other programs hold 60.2 GiB of cuda:0"; undefined where they hold little. */
export function heldByOthers(device: Device): string | undefined {
  if (device === "cpu") return undefined;
  const { totalBytes, freeBytes, reservedBytes } = cardMemory(device as `cuda:${number}`);
  const bytes = totalBytes - freeBytes - reservedBytes - outsideBytes(device);
  return bytes < NOTED_BYTES ? undefined : `other programs hold ${formatBytes(bytes)} of ${device}`;
}

/** Lets what comes next in this process have all the memory there is. */
export function liftCaps(device: Device): void {
  setCap(device, undefined);
  setCap(device, undefined, "host");
}

/** What either pool has held at most, and of what. */
export type Peaks = Record<Pool, { bytes: number; categories: Record<Category, number> }> & Reserved;

/** What a card's caching allocator holds at most, in use or not; undefined on the CPU. */
export interface Reserved {
  reservedBytes?: number | undefined;
}

/** Since the last resetPeaks. */
export function peaksOf(device: Device): Peaks {
  const peakOf = (pool: Pool): Peaks[Pool] => {
    const { peakBytes, peakByCategory } = memoryStats(device, pool);
    return { bytes: peakBytes, categories: peakByCategory };
  };
  const pools = { device: peakOf("device"), host: peakOf("host") };
  if (device === "cpu") return pools;
  return { ...pools, reservedBytes: cardMemory(device as `cuda:${number}`).peakReservedBytes };
}

/** What comes from here on is counted anew, from what is alive. */
export function resetPeaks(device: Device): void {
  for (const pool of POOLS) resetPeak(device, pool);
}

/** Gives what a card's allocator holds unused back to the card. */
export function freeCache(device: Device): void {
  if (device !== "cpu") emptyCache(device as `cuda:${number}`);
}

/** Chooses float32 for a checkpoint that is stored in it, else bfloat16, or float16 on a card without bfloat16. */
function usualType({ dtype }: Pick<OpenedModel, "dtype">, device: Device): Compute["dtype"] {
  return dtype === "float32" ? "float32" : halfOf(device);
}

function halfOf(device: Device): "bfloat16" | "float16" {
  return device === "cpu" || cardInfo(device as `cuda:${number}`).capability >= CARD_ABILITIES.bf16
    ? "bfloat16"
    : "float16";
}

function noDevice(device: Device, devices: number): UserError {
  if (devices > 0) {
    return new UserError(
      `There is no ${device}: this machine has ${devices} GPUs, cuda:0 to cuda:${devices - 1}.`,
      {
        fix: "Pass one of these as --device.",
      },
    );
  }
  const { why, fix } = whyNoCard(findLibtorch(), cudaProblem());
  return new UserError(`${device} can't be used: ${why}.`, { fix });
}
