/** The NVIDIA driver, as its kernel module tells of itself: what CUDA needs before any library can be asked. */
import { readFileSync } from "node:fs";

/** The first driver with CUDA 13, which libtorch's packages are built for. */
export const LEAST_DRIVER = 580;

const MODULE_FILE = "/proc/driver/nvidia/version";

/** Why no card can be used, as far as the driver goes; undefined where it is of no hindrance. file: where the kernel module tells its version. */
export function driverProblem(file = MODULE_FILE): string | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return "there is no NVIDIA driver";
  }
  const version = versionIn(text);
  if (!version || Number.parseInt(version, 10) >= LEAST_DRIVER) return undefined;
  return `the NVIDIA driver is version ${version}, and ${LEAST_DRIVER} or newer is needed`;
}

/** As "580.65.06"; "unknown" where the kernel module says none. */
export function driverVersion(file = MODULE_FILE): string {
  try {
    return versionIn(readFileSync(file, "utf8")) ?? "unknown";
  } catch {
    return "unknown";
  }
}

function versionIn(text: string): string | undefined {
  return /Kernel Module[^\n]*?\s(\d+\.[\d.]+)/.exec(text)?.[1];
}
