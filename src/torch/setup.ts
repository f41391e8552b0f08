/** Sets the engine up: a libtorch where none is usable yet, and the addon built against it. A second run finds nothing to do. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { UserError } from "../errors.ts";
import {
  addonFile,
  findLibtorch,
  LIBTORCH_VERSION,
  type Libtorch,
  ownLibtorch,
  packageRoot,
  searchLibtorch,
  type UsableLibtorch,
} from "./libtorch.ts";

export interface SetupOptions {
  /** Installs libtorch with everything that it needs for NVIDIA cards, where the one at hand lacks that. */
  cuda: boolean;
  log: (line: string) => void;
}

/** What libtorch_cpu.so of the CUDA build links against; the rest of its dependencies serves the card alone. */
const CPU_PARTS = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

const nativeFolder = join(packageRoot, "native");
const stampFile = join(nativeFolder, "build", "stamp.json");

/** Installs and builds what is missing; throws UserError where the machine lacks a tool for it. */
export async function setupEngine({ cuda, log }: SetupOptions): Promise<void> {
  if (!isEnough(searchLibtorch().at(-1), cuda)) await installLibtorch(cuda, log);
  const libtorch = findLibtorch();
  log(`libtorch ${libtorch.version} in ${libtorch.folder}`);
  await buildAddon(libtorch, log);
}

/** In the stamp of a bundle's addon, which has no path in it: its launcher puts a libtorch on the library path, and tries. */
const ANY_LIBTORCH = "any";

/** Whether the addon is built from these sources against this libtorch. */
export function isBuilt(libtorch: UsableLibtorch): boolean {
  const stamp = readStamp();
  const fits = stamp?.libtorch === nameOf(libtorch) || stamp?.libtorch === ANY_LIBTORCH;
  return existsSync(addonFile) && fits && stamp.sources === hashSources();
}

function isEnough(found: Libtorch | undefined, cuda: boolean): boolean {
  if (process.env.LORAFIT_LIBTORCH) return true; // the user's word; findLibtorch says what is wrong with it
  if (!found?.usable) return false;
  if (!cuda) return true;
  return found.cuda && (found.from !== ".libtorch" || existsSync(join(ownLibtorch, "nvidia", "cudnn")));
}

/** Into a folder beside, renamed when it is whole: an interrupted installation is never taken for one. */
async function installLibtorch(cuda: boolean, log: (line: string) => void): Promise<void> {
  if (spawnSync("python3", ["-m", "pip", "--version"]).status !== 0) {
    throw new UserError("pip is needed to install libtorch, and `python3 -m pip` does not run.", {
      fix: "Install Python 3 with pip (Debian, Ubuntu: apt install python3-pip), or set LORAFIT_LIBTORCH to a torch 2.11.",
    });
  }
  const part = `${ownLibtorch}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part);
  log(
    `installing libtorch ${LIBTORCH_VERSION} ${cuda ? "with CUDA (about 7 GB)" : "for CPU (about 1.2 GB)"} into ${ownLibtorch}`,
  );
  const wanted = cuda
    ? [`torch==${LIBTORCH_VERSION}`]
    : ["--no-deps", `torch==${LIBTORCH_VERSION}`, ...CPU_PARTS];
  const quiet = ["--disable-pip-version-check", "--no-input", "--no-compile", "--root-user-action=ignore"];
  // pip's progress goes to stderr: stdout is the program's own
  const status = await run(
    spawn("python3", ["-m", "pip", "install", ...quiet, "--target", part, ...wanted], {
      stdio: ["ignore", 2, 2],
    }),
  );
  if (status !== 0) {
    rmSync(part, { recursive: true, force: true });
    throw new UserError(`pip could not install torch ${LIBTORCH_VERSION} (its message is above).`, {
      fix: "It needs Linux on x86-64 or arm64, Python 3.10 or newer, disk space and a way to the package index.",
    });
  }
  rmSync(ownLibtorch, { recursive: true, force: true });
  renameSync(part, ownLibtorch);
}

async function buildAddon(libtorch: UsableLibtorch, log: (line: string) => void): Promise<void> {
  const bundled = readStamp()?.libtorch === ANY_LIBTORCH;
  if (isBuilt(libtorch) && (!bundled || loads(libtorch))) {
    log("the engine is built and up to date");
    return;
  }
  for (const [tool, version] of [
    ["make", "--version"],
    ["g++", "-dumpversion"],
  ] as const) {
    if (spawnSync(tool, [version]).status === 0) continue;
    throw new UserError(`${tool} is needed to build the engine, and does not run.`, {
      fix: "Install a C++ compiler and make (Debian, Ubuntu: apt install g++ make; on a cluster: module load gcc).",
    });
  }
  log("building the engine (about a minute)");
  const startMs = performance.now();
  const { include_dir: headers } = createRequire(import.meta.url)("node-api-headers") as {
    include_dir: string;
  };
  const builtFor = bundled ? ANY_LIBTORCH : nameOf(libtorch);
  if (bundled || readStamp()?.libtorch !== builtFor) await make(["clean"]); // its headers are no dependencies that make knows
  writeStamp({ libtorch: builtFor, sources: "unfinished" });
  await make([`-j${availableParallelism()}`, `LIBTORCH=${libtorch.folder}`, `NODE_HEADERS=${headers}`]);
  writeStamp({ libtorch: builtFor, sources: hashSources() });
  log(`the engine is built (${((performance.now() - startMs) / 1000).toFixed(0)} s)`);
}

/** Whether this machine can load the addon as it is: a bundle's was built on another one. */
function loads({ folder }: UsableLibtorch): boolean {
  const libraries = [join(folder, "lib"), process.env.LD_LIBRARY_PATH].filter(Boolean).join(":");
  const env = { ...process.env, LD_LIBRARY_PATH: libraries, LD_BIND_NOW: "1" }; // a symbol that is missing shows at once
  return spawnSync(process.execPath, ["-e", "require(process.argv[1])", addonFile], { env }).status === 0;
}

/** Runs make in native/; throws UserError with the end of its output where it fails. */
async function make(goals: string[]): Promise<void> {
  const child = spawn("make", ["-s", "-C", nativeFolder, ...goals], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  if ((await run(child)) === 0) return;
  throw new UserError(`The engine could not be built:\n${output.slice(-4000)}`, {
    fix: "g++ 11 or newer, a writable package folder and 1 GB of memory are needed.",
  });
}

function run(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve, reject) => child.on("error", reject).on("close", resolve));
}

/** What the objects in the build folder were made from. */
interface Stamp {
  libtorch: string;
  sources: string;
}

function readStamp(): Stamp | undefined {
  return existsSync(stampFile) ? (JSON.parse(readFileSync(stampFile, "utf8")) as Stamp) : undefined;
}

function writeStamp(stamp: Stamp): void {
  mkdirSync(dirname(stampFile), { recursive: true });
  writeFileSync(stampFile, `${JSON.stringify(stamp)}\n`);
}

function nameOf({ folder, version }: UsableLibtorch): string {
  return `${version} in ${folder}`;
}

function hashSources(): string {
  const hash = createHash("sha256");
  for (const name of readdirSync(nativeFolder).sort()) {
    if (/\.(cc|h)$|^Makefile$/.test(name)) hash.update(name).update(readFileSync(join(nativeFolder, name)));
  }
  return hash.digest("hex");
}
