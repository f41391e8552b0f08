/**
 * Sets up the engine: installs a usable libtorch if there is none, and builds the addon against it. A second
 * run finds nothing to do.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { UserError } from "../../errors.ts";
import { installLibtorch, isEnough, isEnoughFor, statusOf, type WantedCuda } from "./installLibtorch.ts";
import {
  addonFile,
  describeLibtorch,
  findLibtorch,
  packageRoot,
  searchLibtorch,
  type UsableLibtorch,
} from "./libtorch.ts";

export interface SetupOptions {
  /**
   * CUDA version to install libtorch for, with all its libraries for NVIDIA cards, if the present libtorch
   * lacks it.
   */
  cuda?: WantedCuda | undefined;
  log: (line: string) => void;
  /** Called as the engine is compiled; done and total are shares of the time that all of it takes. */
  onCompiled?: ((done: number, total: number) => void) | undefined;
}

const nativeFolder = join(packageRoot, "native");
const stampFile = join(nativeFolder, "build", "stamp.json");

/** Installs and builds what is missing. Throws UserError if the machine lacks a tool for it. */
export async function setupEngine({ cuda, log, onCompiled }: SetupOptions): Promise<void> {
  if (!isEnough(searchLibtorch().at(-1), cuda)) await installLibtorch(cuda, log);
  const libtorch = findLibtorch();
  log(`libtorch ${describeLibtorch(libtorch)}, in ${libtorch.folder}`);
  if (cuda && process.env.LORAFIT_LIBTORCH && !isEnoughFor(libtorch, cuda)) {
    log("LORAFIT_LIBTORCH names it, so no other is installed: unset that to have setup --cuda install one");
  }
  await buildAddon(libtorch, { log, onCompiled });
}

/**
 * Stands for the libtorch in the stamp of a bundle's addon, which contains no path. The bundle's launcher
 * puts a libtorch on the library path and tries to load it.
 */
const ANY_LIBTORCH = "any";

/** Whether the addon is built from these sources against this libtorch. */
export function isBuilt(libtorch: UsableLibtorch): boolean {
  const stamp = readStamp();
  const fits = stamp?.libtorch === nameOf(libtorch) || stamp?.libtorch === ANY_LIBTORCH;
  return existsSync(addonFile) && fits && stamp.sources === hashSources();
}

async function buildAddon(
  libtorch: UsableLibtorch,
  { log, onCompiled }: Pick<SetupOptions, "log" | "onCompiled">,
): Promise<void> {
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
  if (bundled || readStamp()?.libtorch !== builtFor) await make(["clean"]); // make does not track libtorch's headers
  writeStamp({ libtorch: builtFor, sources: "unfinished" });
  const paths = [`LIBTORCH=${libtorch.folder}`, `NODE_HEADERS=${headers}`];
  const total = compiledIn(
    spawnSync("make", ["-n", "-C", nativeFolder, ...paths], { encoding: "utf8" }).stdout,
  );
  onCompiled?.(0, total);
  await make([`-j${availableParallelism()}`, ...paths], (done) => onCompiled?.(done, Math.max(done, total)));
  writeStamp({ libtorch: builtFor, sources: hashSources() });
  log(`the engine is built (${((performance.now() - startMs) / 1000).toFixed(0)} s)`);
}

/** Whether this machine can load the present addon: a bundle's was built on another machine. */
function loads({ folder }: UsableLibtorch): boolean {
  const libraries = [join(folder, "lib"), process.env.LD_LIBRARY_PATH].filter(Boolean).join(":");
  const env = { ...process.env, LD_LIBRARY_PATH: libraries, LD_BIND_NOW: "1" }; // reports a missing symbol at once
  return spawnSync(process.execPath, ["-e", "require(process.argv[1])", addonFile], { env }).status === 0;
}

/**
 * Runs make in native/ and reports how many files are compiled so far. If make fails, throws UserError with
 * the end of its output.
 */
async function make(goals: string[], onCompiled?: (done: number) => void): Promise<void> {
  const child = spawn("make", ["-s", "-C", nativeFolder, ...goals], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let done = 0;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      output += chunk;
      const now = compiledIn(output);
      if (now > done) onCompiled?.(now);
      done = now;
    });
  }
  if ((await statusOf(child)) === 0) return;
  throw new UserError(`The engine could not be built:\n${output.replaceAll(COMPILED, "").slice(-4000)}`, {
    fix: "g++ 11 or newer, a writable package folder and 1 GB of memory are needed.",
  });
}

/**
 * Line that the Makefile prints after each file, with the file's share of the time; `make -n` prints its
 * echo.
 */
const COMPILED = /^(?:echo )?compiled \S+(?: (\d+))?\n/gm;

function compiledIn(output: string): number {
  return [...output.matchAll(COMPILED)].reduce((sum, [, share]) => sum + Number(share ?? 1), 0);
}

/** The libtorch and sources that the objects in the build folder were made from. */
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

/** Names a libtorch by version and real folder, with links resolved. */
function nameOf({ folder, version }: UsableLibtorch): string {
  return `${version} in ${realpathSync(folder)}`;
}

function hashSources(): string {
  const hash = createHash("sha256");
  for (const name of readdirSync(nativeFolder).sort()) {
    if (/\.(cc|h)$|^Makefile$/.test(name)) hash.update(name).update(readFileSync(join(nativeFolder, name)));
  }
  return hash.digest("hex");
}
