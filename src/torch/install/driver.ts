/** Reads the NVIDIA driver's version from its kernel module, before any library of CUDA is loaded. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { commandLine } from "../../program.ts";
import {
  buildFor,
  type Cards,
  CUDA_BUILDS,
  CUDA_VERSIONS,
  cardCapabilities,
  leastDriverFor,
  serves,
} from "./cudaBuilds.ts";
import type { UsableLibtorch } from "./libtorch.ts";

const MODULE_FILE = "/proc/driver/nvidia/version";

/** Facts of a libtorch that decide which driver it needs. */
type Installed = Pick<UsableLibtorch, "cuda" | "folder"> & Partial<Pick<UsableLibtorch, "cudaVersion">>;

/** Files that show this machine's driver and cards. */
const PLACES = { driver: MODULE_FILE, devices: "/dev" };

/**
 * Returns one line about a GPU that is present but unused, and what to do. Returns undefined without a GPU,
 * or if only the user's CUDA_VISIBLE_DEVICES keeps it unused. loading: as in whyNoCard.
 */
export function whyCardIdles(
  libtorch: Installed,
  loading: string | undefined,
  { driver, devices }: typeof PLACES = PLACES,
): string | undefined {
  if (/^(-1)?$/.test(process.env.CUDA_VISIBLE_DEVICES ?? "all")) return undefined;
  if (!existsSync(driver) || !hasCard(devices)) return undefined; // a container can see its host's driver without its cards
  if (libtorch.cuda && loading === undefined && driverProblem(libtorch, driver) === undefined)
    return undefined;
  const { why, fix } = whyNoCard(libtorch, loading, driver);
  const mends = fix.split("\n").slice(0, -1).join(" ");
  return `Computing on the CPU, though there is a GPU: ${why}. ${mends}`;
}

function hasCard(devices: string): boolean {
  return existsSync(devices) && readdirSync(devices).some((name) => /^nvidia\d+$/.test(name));
}

/**
 * Returns why no card can be used, and what to do. loading: the loader's error for libtorch's CUDA half;
 * undefined if it loaded. file: as in driverProblem.
 */
export function whyNoCard(
  libtorch: Installed,
  loading: string | undefined,
  file?: string,
): { why: string; fix: string } {
  const { cuda, folder } = libtorch;
  const driver = driverProblem(libtorch, file);
  const half = cuda ? undefined : `libtorch in ${folder} is one for the CPU: it has no libtorch_cuda.so`;
  const rest = driver || half ? undefined : loading?.replace(/^CUDA can't be used: /, "");
  const fixes = [
    driver && driverFix(libtorch, file),
    half &&
      `${commandLine("setup --cuda")} installs libtorch with CUDA; or set LORAFIT_LIBTORCH to one that has it.`,
    rest && `${commandLine("setup --cuda")} installs what CUDA's half of libtorch needs.`,
    `${commandLine("doctor")} says what was found; --device cpu computes on the CPU.`,
  ];
  const why = [driver, half, rest].filter(Boolean).join("; ") || "libtorch finds no GPU";
  return { why, fix: fixes.filter(Boolean).join("\n") };
}

/**
 * Returns why the driver prevents the use of cards; undefined if it does not. Without a libtorch for CUDA,
 * checks the driver for those that setup installs. file: where the kernel module reports its version.
 */
export function driverProblem(libtorch: Installed | undefined, file = MODULE_FILE): string | undefined {
  const version = moduleVersion(file);
  if (version === undefined) return "there is no NVIDIA driver";
  const least = leastDriver(libtorch);
  if (!(majorOf(version) < least)) return undefined;
  const forWhat = libtorch?.cudaVersion ? ` for CUDA ${libtorch.cudaVersion}` : "";
  return `the NVIDIA driver is version ${version}, and ${least} or newer is needed${forWhat}`;
}

/** Returns the fix for a missing or old driver: a newer driver, or a libtorch that works with this one. */
export function driverFix(libtorch: Installed | undefined, file = MODULE_FILE): string {
  const newer = `Install an NVIDIA driver of version ${leastDriver(libtorch)} or newer.`;
  const cards = machineCards(file);
  if (cards.driver === undefined) return newer;
  const build = buildFor(cards);
  if (!serves(build, cards)) return newer;
  return `${newer} Or take libtorch for CUDA ${build}, which runs on this one: ${commandLine(`setup --cuda ${build}`)}`;
}

function leastDriver(libtorch: Installed | undefined): number {
  if (libtorch?.cuda) return leastDriverFor(libtorch.cudaVersion);
  return Math.min(...CUDA_VERSIONS.map((version) => CUDA_BUILDS[version].leastDriver));
}

/** Returns the facts of this machine that its driver reports. */
export function machineCards(file = MODULE_FILE): Cards {
  const major = majorOf(driverVersion(file));
  return { capabilities: cardCapabilities(), driver: Number.isNaN(major) ? undefined : major };
}

/** Returns the version, for example "580.65.06"; "unknown" if nothing reports it. */
export function driverVersion(file = MODULE_FILE): string {
  return moduleVersion(file) ?? "unknown";
}

/**
 * Returns the version, for example "580.65.06"; "unknown" if the kernel module reports none, undefined
 * without a driver.
 */
function moduleVersion(file: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
  return /Kernel Module[^\n]*?\s(\d+\.[\d.]+)/.exec(text)?.[1] ?? "unknown";
}

function majorOf(version: string): number {
  return Number.parseInt(version, 10);
}
