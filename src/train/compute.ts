/** What the options of device, type and memory come to on this machine. */
import { openModelFolder, resolveModel } from "../checkpoint/folder.ts";
import { UserError } from "../errors.ts";
import type { LoadOptions } from "../models/weights.ts";
import {
  cudaDevices,
  memoryStats,
  resetPeak,
  setCap,
  setThreads,
  type TrackedDevice,
} from "../torch/device.ts";
import type { Device, DType } from "../torch/tensor.ts";

export interface ComputeOptions {
  dtype?: "fp32" | "bf16" | undefined;
  device?: Device | undefined;
  threads?: number | undefined;
  memory?: number | undefined;
  base?: LoadOptions["base"];
  head_base?: LoadOptions["headBase"];
}

/** How a model is loaded. */
export interface Compute extends LoadOptions {
  dtype: "float32" | "bfloat16";
}

export const DTYPES = { fp32: "float32", bf16: "bfloat16" } as const satisfies Record<string, DType>;

/** Sets threads and memory cap of the process, and says where and in which type to compute. Throws UserError without that device. */
export function startCompute(model: string, options: ComputeOptions): Compute {
  const device = chooseDevice(options.device);
  if (options.threads !== undefined) setThreads(options.threads);
  if (device === "cpu") setCap("cpu", options.memory);
  return {
    dtype: options.dtype ? DTYPES[options.dtype] : storedType(model),
    device,
    base: options.base,
    headBase: options.head_base,
  };
}

/** The device that was asked for, else the first GPU, else the CPU. Throws UserError where it is not there. */
export function chooseDevice(asked: Device | undefined): Device {
  const devices = cudaDevices();
  const device = asked ?? (devices > 0 ? "cuda:0" : "cpu");
  if (device.startsWith("cuda") && Number(device.slice("cuda:".length)) >= devices)
    throw noDevice(device, devices);
  return device;
}

/** Lets what comes next in this process have all the memory there is. */
export function liftCap(): void {
  setCap("cpu", undefined);
}

/** Bytes at the peak since the last call; 0 where nothing tracks them. */
export function takePeakBytes(device: Device): number {
  if (device.startsWith("cuda")) return 0;
  const { peakBytes } = memoryStats(device as TrackedDevice);
  resetPeak(device as TrackedDevice);
  return peakBytes;
}

/** float32 for a checkpoint that is stored so, else bfloat16. */
function storedType(model: string): Compute["dtype"] {
  const { weights } = openModelFolder(resolveModel(model));
  try {
    return weights.entry("model.norm.weight").dtype === "float32" ? "float32" : "bfloat16";
  } finally {
    weights.close();
  }
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
  return new UserError(`${device} can't be used: libtorch finds no GPU.`, {
    fix: "npx lorafit doctor says what was found and what is missing; --device cpu computes on the CPU.",
  });
}
