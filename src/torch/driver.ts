/** The NVIDIA driver, as its kernel module tells of itself: what CUDA needs before any library can be asked. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { commandLine } from "../program.ts";
import type { UsableLibtorch } from "./libtorch.ts";

/** The first driver with CUDA 13, which libtorch's packages are built for. */
export const LEAST_DRIVER = 580;

const MODULE_FILE = "/proc/driver/nvidia/version";

/** Where this machine's cards and its driver show. */
const PLACES = { driver: MODULE_FILE, devices: "/dev" };

/**
 * One line on a card that is there and left idle, with what mends it; undefined without a card, and where nothing but the user
 * (CUDA_VISIBLE_DEVICES) keeps it from being used. loading: as in whyNoCard.
 */
export function whyCardIdles(
  libtorch: Pick<UsableLibtorch, "cuda" | "folder">,
  loading: string | undefined,
  { driver, devices }: typeof PLACES = PLACES,
): string | undefined {
  if (/^(-1)?$/.test(process.env.CUDA_VISIBLE_DEVICES ?? "all")) return undefined;
  if (!existsSync(driver) || !hasCard(devices)) return undefined; // a container sees its host's driver, and not its cards
  if (libtorch.cuda && loading === undefined && driverProblem(driver) === undefined) return undefined;
  const { why, fix } = whyNoCard(libtorch, loading, driver);
  const mends = fix.split("\n").slice(0, -1).join(" ");
  return `Computing on the CPU, though there is a GPU: ${why}. ${mends}`;
}

function hasCard(devices: string): boolean {
  return existsSync(devices) && readdirSync(devices).some((name) => /^nvidia\d+$/.test(name));
}

/**
 * Why no card can be used, and what to do. loading: what came of loading libtorch's CUDA half, in the loader's words; file: as in
 * driverProblem.
 */
export function whyNoCard(
  { cuda, folder }: Pick<UsableLibtorch, "cuda" | "folder">,
  loading: string | undefined,
  file?: string,
): { why: string; fix: string } {
  const driver = driverProblem(file);
  const half = cuda ? undefined : `libtorch in ${folder} is one for the CPU: it has no libtorch_cuda.so`;
  const rest = driver || half ? undefined : loading?.replace(/^CUDA can't be used: /, "");
  const fixes = [
    driver && `Install an NVIDIA driver of version ${LEAST_DRIVER} or newer.`,
    half &&
      `${commandLine("setup --cuda")} installs libtorch with CUDA; or set LORAFIT_LIBTORCH to one that has it.`,
    rest && `${commandLine("setup --cuda")} installs what CUDA's half of libtorch needs.`,
    `${commandLine("doctor")} says what was found; --device cpu computes on the CPU.`,
  ];
  const why = [driver, half, rest].filter(Boolean).join("; ") || "libtorch finds no GPU";
  return { why, fix: fixes.filter(Boolean).join("\n") };
}

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
