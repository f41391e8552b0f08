/**
 * PyTorch's builds of the release that lorafit uses: the cards and drivers that each supports, and where pip
 * finds it.
 */
import { spawnSync } from "node:child_process";
import { commandLine } from "../../program.ts";

export interface CudaBuild {
  /** Suffix of the version, for example cu126 in 2.11.0+cu126. */
  tag: string;
  /** Range of compute capabilities that it has kernels for, for example 75. */
  capabilities: { least: number; most: number };
  /** Lowest major version of the driver that it runs on. */
  leastDriver: number;
  /** Whether every package index that mirrors PyPI has it. */
  isUsual: boolean;
  downloadGigabytes: number;
  diskGigabytes: number;
}

/**
 * Builds that setup installs, preferred ones first. Cards: the support matrix of release 2.11
 * (pytorch/pytorch, RELEASE.md).
 * Drivers: the first version of CUDA 13, and the first that runs all of CUDA 12 (minor-version
 * compatibility).
 */
// biome-ignore format: columns line up
export const CUDA_BUILDS = {
  "13.0": { tag: "cu130", capabilities: { least: 75, most: 129 }, leastDriver: 580, isUsual: true,  downloadGigabytes: 3, diskGigabytes: 5 },
  "12.6": { tag: "cu126", capabilities: { least: 50, most: 90 },  leastDriver: 525, isUsual: false, downloadGigabytes: 3, diskGigabytes: 6 },
} as const satisfies Record<string, CudaBuild>;

export type CudaVersion = keyof typeof CUDA_BUILDS;

export const CUDA_VERSIONS = Object.keys(CUDA_BUILDS) as [CudaVersion, ...CudaVersion[]];

/** Facts of a machine that decide which build it needs. */
export interface Cards {
  /** Compute capabilities, for example 70; empty if unknown. */
  capabilities: readonly number[];
  /** Major version of the driver; undefined if unknown. */
  driver: number | undefined;
}

/** Returns the package index that PyTorch documents for a build. */
export function indexOf(version: CudaVersion): string {
  return `https://download.pytorch.org/whl/${CUDA_BUILDS[version].tag}`;
}

/**
 * Returns the lowest driver version for libtorch of any CUDA version, also of versions that are not in the
 * table.
 */
export function leastDriverFor(version: string | undefined): number {
  return CUDA_BUILDS[version?.startsWith("12.") ? "12.6" : "13.0"].leastDriver;
}

/**
 * Whether libtorch for a CUDA version has kernels for a card; true for versions that are not in the table.
 */
export function hasKernelsFor(version: string | undefined, capability: number): boolean {
  const build: CudaBuild | undefined = CUDA_BUILDS[version as CudaVersion];
  return !build || (capability >= build.capabilities.least && capability <= build.capabilities.most);
}

/**
 * Returns the preferred build for a machine: the first that supports its driver and all its cards, else the
 * first of all.
 */
export function buildFor(cards: Cards): CudaVersion {
  return CUDA_VERSIONS.find((version) => serves(version, cards)) ?? CUDA_VERSIONS[0];
}

/** Whether libtorch for a CUDA version runs on a machine's driver and cards. */
export function serves(version: string | undefined, { capabilities, driver }: Cards): boolean {
  if (driver !== undefined && driver < leastDriverFor(version)) return false;
  return capabilities.every((capability) => hasKernelsFor(version, capability));
}

/** Returns why libtorch for a CUDA version can't compute on a card, and what to do; undefined if it can. */
export function cardProblem(
  version: string | undefined,
  capability: number,
): { why: string; fix: string } | undefined {
  if (hasKernelsFor(version, capability)) return undefined;
  const other = CUDA_VERSIONS.find((known) => hasKernelsFor(known, capability));
  return {
    why: `libtorch for CUDA ${version} has no kernels for a card of compute capability ${(capability / 10).toFixed(1)}`,
    fix: other
      ? `Install the one for CUDA ${other}: ${commandLine(`setup --cuda ${other}`)}`
      : `None of its builds has: they begin at ${leastCapability()}.`,
  };
}

function leastCapability(): string {
  const least = Math.min(...CUDA_VERSIONS.map((version) => CUDA_BUILDS[version].capabilities.least));
  return (least / 10).toFixed(1);
}

/**
 * Returns the command that installs libtorch for a machine's cards; it names the build unless it is the usual
 * one.
 */
export function setupCommand(cards: Cards): string {
  const build = buildFor(cards);
  return commandLine(CUDA_BUILDS[build].isUsual ? "setup --cuda" : `setup --cuda ${build}`);
}

/** Returns the compute capabilities of this machine's cards, as nvidia-smi reports them. */
export function cardCapabilities(): number[] {
  const { status, stdout } = spawnSync("nvidia-smi", ["--query-gpu=compute_cap", "--format=csv,noheader"], {
    encoding: "utf8",
    timeout: 20_000,
  });
  if (status !== 0) return [];
  return [...stdout.matchAll(/^\s*(\d+)\.(\d)\s*$/gm)].map(([, major, minor]) => Number(`${major}${minor}`));
}
