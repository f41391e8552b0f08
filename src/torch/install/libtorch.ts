/**
 * Finds libtorch and loads the addon that was built against it. This module works without either, as `lorafit
 * doctor` and `lorafit setup` need. If one is missing, an import of native.ts throws a UserError that says
 * what to do.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { messageOf, UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";

/** Release that the addon is written for. Patch releases keep its binary interface. */
export const LIBTORCH_VERSION = "2.11.0";

/** Folder of package.json, in a checkout or in an installed package. */
export const packageRoot = findPackageRoot();

/** Folder of the project's own libtorch, installed by installLibtorch.ts. */
export const ownLibtorch = join(packageRoot, ".libtorch");

/** File of the built addon. */
export const addonFile = join(packageRoot, "native", "build", "lorafit.node");

/** A complete package torch of the right release. `cuda`: whether it has a CUDA half. */
export interface UsableLibtorch {
  usable: true;
  from: string;
  folder: string;
  version: string;
  cuda: boolean;
  /** CUDA version that it was built for, for example "13.0". */
  cudaVersion: string | undefined;
}

/** Result of the search at one place. */
export type Libtorch =
  | UsableLibtorch
  | { usable: false; from: string; folder: string | undefined; problem: string };

/**
 * Looks in each place until one is usable: LORAFIT_LIBTORCH, the project's .libtorch, Python's torch. If
 * LORAFIT_LIBTORCH is set, looks there only.
 */
export function searchLibtorch(): Libtorch[] {
  const found: Libtorch[] = [];
  for (const place of [fromEnvironment, fromProject, fromPython]) {
    const candidate = place();
    if (candidate) found.push(candidate);
    if (candidate?.usable || candidate?.from === "LORAFIT_LIBTORCH") break;
  }
  return found;
}

/** Returns the libtorch to use. Throws UserError that lists what was found in each place. */
export function findLibtorch(): UsableLibtorch {
  const places = searchLibtorch();
  const last = places.at(-1);
  if (last?.usable) return last;
  const looked = places.map((place) => (place.usable ? "" : `  ${place.from}: ${place.problem}`)).join("\n");
  throw new UserError(`libtorch ${LIBTORCH_VERSION} was not found.\n${looked}`, {
    fix: `Install it: ${commandLine("setup")}\nOr set LORAFIT_LIBTORCH to the folder of a Python package torch 2.11.`,
  });
}

/**
 * Whether NVIDIA's libraries are present too, which the CUDA half needs. Setup leaves them out for computing
 * on the CPU.
 */
export function isForCards({ cuda, from }: UsableLibtorch): boolean {
  return cuda && (from !== ".libtorch" || existsSync(join(ownLibtorch, "nvidia", "cudnn")));
}

/** Describes a libtorch: "2.11.0+cu126, for CUDA 12.6 and the CPU". */
export function describeLibtorch(libtorch: UsableLibtorch): string {
  const { version, cuda, cudaVersion } = libtorch;
  if (!cuda) return `${version}, for the CPU`;
  const build = `CUDA ${cudaVersion ?? "of an unknown version"}`;
  return isForCards(libtorch)
    ? `${version}, for ${build} and the CPU`
    : `${version}, for the CPU (the build for ${build}, without NVIDIA's libraries)`;
}

/**
 * Spin rounds: enough for the pauses between operators of a step, and too few to disturb other processes
 * (docs/performance.md).
 */
const SPIN_ROUNDS = "2000";

/**
 * Makes libtorch's threads spin only briefly while they wait for work, and then sleep, unless the user has
 * set how they wait.
 * Their long default spinning starves other threads and processes if cores are shared. libtorch reads this
 * setting once, while it is loaded.
 */
export function limitSpinning(environment: NodeJS.ProcessEnv): void {
  if (environment.OMP_WAIT_POLICY === undefined) environment.GOMP_SPINCOUNT ??= SPIN_ROUNDS;
}

/** Returns the addon's exports. Throws UserError if it is not built or can't be loaded. */
export function loadAddon(): unknown {
  if (!existsSync(addonFile)) {
    throw new UserError("The engine is not built yet.", {
      fix: `Build it: ${commandLine("setup")} (in a checkout: make build)`,
    });
  }
  limitSpinning(process.env);
  try {
    return createRequire(import.meta.url)(addonFile);
  } catch (error) {
    findLibtorch(); // throws if libtorch is missing, which is then the reason
    throw new UserError(`The engine can't be loaded: ${messageOf(error)}`, {
      fix: `Build it anew, as libtorch has moved or changed: ${commandLine("setup")}`,
      cause: error,
    });
  }
}

function fromEnvironment(): Libtorch | undefined {
  const folder = process.env.LORAFIT_LIBTORCH;
  if (!folder) return undefined;
  const inside = join(folder, "torch"); // site-packages works too: the package is inside
  return inspect("LORAFIT_LIBTORCH", resolve(existsSync(join(inside, "version.py")) ? inside : folder));
}

function fromProject(): Libtorch {
  return inspect(".libtorch", join(ownLibtorch, "torch"));
}

/**
 * Finds Python's torch without importing it. Its import takes seconds, and fails on machines that lack CUDA.
 */
function fromPython(): Libtorch {
  const script =
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
  const { stdout, error } = spawnSync("python3", ["-c", script], { encoding: "utf8", timeout: 20_000 });
  const folder = (stdout ?? "").trim();
  if (folder) return inspect("python3", folder);
  const problem = error ? "python3 can't be run" : "it has no package torch";
  return { usable: false, from: "python3", folder: undefined, problem };
}

/** Checks whether a folder is a complete package torch of the right version. */
function inspect(from: string, folder: string): Libtorch {
  const problem = (text: string): Libtorch => ({
    usable: false,
    from,
    folder,
    problem: `${folder}: ${text}`,
  });
  if (!existsSync(folder)) return problem("not there");
  const { version, cudaVersion } = readBuild(folder);
  if (!version) return problem("no package torch (version.py is missing)");
  if (!/^2\.11\./.test(version)) return problem(`version ${version}, and ${LIBTORCH_VERSION} is needed`);
  for (const part of ["lib/libtorch_cpu.so", "lib/libc10.so", "include/ATen/core/Tensor.h"]) {
    if (!existsSync(join(folder, part))) return problem(`${part} is missing`);
  }
  const cuda = existsSync(join(folder, "lib/libtorch_cuda.so"));
  const alone = cuda && from === ".libtorch" && !existsSync(join(ownLibtorch, "nvidia"));
  return alone
    ? problem("nvidia/ is missing beside it")
    : { usable: true, from, folder, version, cuda, cudaVersion };
}

/** Reads the version and CUDA version of a package torch. */
export function readBuild(folder: string): { version?: string; cudaVersion?: string } {
  const file = join(folder, "version.py");
  const text = existsSync(file) ? readFileSync(file, "utf8") : "";
  const version = /__version__ = '([^']+)'/.exec(text)?.[1];
  const cudaVersion = /^cuda\b[^\n]*= '([^']+)'/m.exec(text)?.[1];
  return { ...(version && { version }), ...(cudaVersion && { cudaVersion }) };
}

function findPackageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}
