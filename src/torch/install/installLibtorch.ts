/**
 * Installs libtorch with pip into the project's own folder, for the CPU only, or for a CUDA version and the
 * machine's cards.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { buildFor, CUDA_BUILDS, type CudaVersion, indexOf, serves } from "./cudaBuilds.ts";
import { machineCards } from "./driver.ts";
import {
  isForCards,
  LIBTORCH_VERSION,
  type Libtorch,
  ownLibtorch,
  readBuild,
  type UsableLibtorch,
} from "./libtorch.ts";

/**
 * CUDA version to install libtorch for; "fitting" chooses the one that suits the machine's cards and driver.
 */
export type WantedCuda = CudaVersion | "fitting";

/** Packages that libtorch_cpu.so for CUDA 13.0 links against; its other dependencies are for cards only. */
const CPU_PARTS = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/** Whether the libtorch that was found is enough; without `cuda`, for computing on the CPU. */
export function isEnough(found: Libtorch | undefined, cuda: WantedCuda | undefined): boolean {
  if (process.env.LORAFIT_LIBTORCH) return true; // set by the user; findLibtorch reports its faults
  if (!found?.usable) return false;
  return cuda === undefined || isEnoughFor(found, cuda);
}

/** Whether a libtorch can compute on a card as wanted. */
export function isEnoughFor(found: UsableLibtorch, cuda: WantedCuda): boolean {
  if (!isForCards(found)) return false;
  if (cuda !== "fitting") return found.cudaVersion === cuda;
  const cards = machineCards();
  return serves(found.cudaVersion, cards) || found.cudaVersion === buildFor(cards); // no build is better
}

/**
 * Installs into a folder beside the final one, and renames it when complete. So an interrupted installation
 * is never used.
 */
export async function installLibtorch(
  cuda: WantedCuda | undefined,
  log: (line: string) => void,
): Promise<void> {
  if (spawnSync("python3", ["-m", "pip", "--version"]).status !== 0) {
    throw new UserError("pip is needed to install libtorch, and `python3 -m pip` does not run.", {
      fix: "Install Python 3 with pip (Debian, Ubuntu: apt install python3-pip), or set LORAFIT_LIBTORCH to a torch 2.11.",
    });
  }
  const part = `${ownLibtorch}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part);
  try {
    if (cuda) await installForCards(cuda === "fitting" ? buildFor(machineCards()) : cuda, part, log);
    else await installForCpu(part, log);
  } catch (thrown) {
    rmSync(part, { recursive: true, force: true });
    throw thrown;
  }
  rmSync(ownLibtorch, { recursive: true, force: true });
  renameSync(part, ownLibtorch);
}

/** Installs torch from pip's index, and only those dependencies that its CPU half links against. */
async function installForCpu(folder: string, log: (line: string) => void): Promise<void> {
  log(
    `installing libtorch ${LIBTORCH_VERSION} to compute on the CPU (about 0.6 GB to download, 1.2 GB of disk) into ${ownLibtorch}`,
  );
  await pipInstall(folder, ["--no-deps", `torch==${LIBTORCH_VERSION}`]);
  const parts = cpuPartsOf(folder);
  if (parts.length > 0) await pipInstall(folder, ["--no-deps", ...parts]);
}

/**
 * Installs torch with all dependencies for cards. Uses PyTorch's own index if pip's index lacks the build.
 */
async function installForCards(
  version: CudaVersion,
  folder: string,
  log: (line: string) => void,
): Promise<void> {
  const { tag, isUsual, downloadGigabytes, diskGigabytes } = CUDA_BUILDS[version];
  const release = isUsual ? LIBTORCH_VERSION : `${LIBTORCH_VERSION}+${tag}`;
  const isThere = isUsual || (await pipOffers(release));
  if (!isThere) log(`pip's package index has no torch ${release}: PyTorch's own has it, ${indexOf(version)}`);
  log(
    `installing libtorch ${LIBTORCH_VERSION} for CUDA ${version} (about ${downloadGigabytes} GB to download, ${diskGigabytes} GB of disk) into ${ownLibtorch}`,
  );
  await pipInstall(folder, [
    ...(isThere ? [] : ["--extra-index-url", indexOf(version)]),
    `torch==${release}`,
  ]);
  const got = readBuild(join(folder, "torch"));
  if (got.cudaVersion === version) return;
  throw new UserError(`pip's package index gave torch ${got.version}, which is not for CUDA ${version}.`, {
    fix: `Have pip look at PyTorch's own index too:\nPIP_EXTRA_INDEX_URL=${indexOf(version)} ${commandLine(`setup --cuda ${version}`)}`,
  });
}

/**
 * Returns the packages of CUDA's runtime that an installed torch requires. They differ by build; a build for
 * the CPU needs none.
 */
function cpuPartsOf(folder: string): string[] {
  const { cudaVersion } = readBuild(join(folder, "torch"));
  const facts = readdirSync(folder).find((name) => /^torch-.*\.dist-info$/.test(name));
  const file = facts && join(folder, facts, "METADATA");
  const needs = file && existsSync(file) ? readFileSync(file, "utf8") : "";
  const named = [...needs.matchAll(/^Requires-Dist: (nvidia-cuda-(?:runtime|cupti)[\w-]*==[\w.]+)/gm)];
  if (named.length > 0) return named.map(([, need]) => need as string);
  return cudaVersion === "13.0" ? CPU_PARTS : [];
}

/** Whether the package index that pip is configured with has a release of torch. */
async function pipOffers(release: string): Promise<boolean> {
  const child = spawn("python3", ["-m", "pip", "index", "versions", "torch"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  let text = "";
  child.stdout.on("data", (chunk) => (text += chunk));
  await statusOf(child);
  return text.split(/[\s,]+/).includes(release);
}

/** Runs pip install and shows its messages. Throws UserError if pip fails. */
async function pipInstall(folder: string, wanted: string[]): Promise<void> {
  const quiet = ["--disable-pip-version-check", "--no-input", "--no-compile", "--root-user-action=ignore"];
  // pip's progress goes to stderr: stdout is the program's own
  const status = await statusOf(
    spawn("python3", ["-m", "pip", "install", ...quiet, "--target", folder, ...wanted], {
      stdio: ["ignore", 2, 2],
    }),
  );
  if (status === 0) return;
  throw new UserError(`pip could not install torch ${LIBTORCH_VERSION} (its message is above).`, {
    fix: "It needs Linux on x86-64 or arm64, Python 3.10 or newer, disk space and a way to the package index.",
  });
}

/** Returns the exit status of a process when it has ended. */
export function statusOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve, reject) => child.on("error", reject).on("close", resolve));
}
