/** The NVIDIA driver, as its kernel module tells of itself: what CUDA needs before any library can be asked. */
import { readFileSync } from "node:fs";

/** The first driver with CUDA 13, which libtorch's packages are built for. */
export const LEAST_DRIVER = 580;

/** Why no card can be used, as far as the driver goes; undefined where it is of no hindrance. file: where the kernel module tells its version. */
export function driverProblem(file = "/proc/driver/nvidia/version"): string | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return "there is no NVIDIA driver";
  }
  const version = /Kernel Module[^\n]*?\s(\d+)\.([\d.]+)/.exec(text);
  if (!version || Number(version[1]) >= LEAST_DRIVER) return undefined;
  return `the NVIDIA driver is version ${version[1]}.${version[2]}, and ${LEAST_DRIVER} or newer is needed`;
}
