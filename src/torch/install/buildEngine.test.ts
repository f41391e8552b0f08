/**
 * Runs setup in a copy of the package, with fakes of the tools that it calls. Checks what runs, and what is
 * left behind.
 */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { packageRoot } from "./libtorch.ts";

type Setup = typeof import("./buildEngine.ts");
type Find = typeof import("./libtorch.ts");

const copy = join(packageRoot, ".cache", `setup-test-${process.pid}`);
const tools = join(copy, "tools");
const calls = join(copy, "calls");
const libtorch = join(copy, ".libtorch");

beforeEach(() => {
  rmSync(copy, { recursive: true, force: true });
  for (const folder of ["src/torch/install", "native", "tools"])
    mkdirSync(join(copy, folder), { recursive: true });
  for (const file of [
    "package.json",
    "src/errors.ts",
    "src/printable.ts",
    "src/program.ts",
    "src/torch/install/cudaBuilds.ts",
    "src/torch/install/driver.ts",
    "src/torch/install/installLibtorch.ts",
    "src/torch/install/buildEngine.ts",
    "src/torch/install/libtorch.ts",
    "native/Makefile",
  ]) {
    cpSync(join(packageRoot, file), join(copy, file));
  }
  writeFileSync(join(copy, "native", "addon.cc"), "// one source");
  vi.stubEnv("LORAFIT_LIBTORCH", undefined);
  vi.stubEnv("PATH", `${tools}:/usr/bin:/bin`);
  tool("make", `mkdir -p ${copy}/native/build && touch ${copy}/native/build/lorafit.node`);
  tool("g++", "true");
  pipGives({});
});

/**
 * Replaces pip. `parts`: the packages that it installs beside torch. `offered`: the versions that its index
 * lists.
 */
function pipGives({ version = "2.11.0+cu130", cuda = "13.0", parts = "cudnn", offered = "2.11.0" }): void {
  const torch = fakeTorch('"$target/torch"', version, cuda);
  const rest = `mkdir -p $(for part in ${parts}; do echo "$target/nvidia/$part"; done)`;
  tool(
    "python3",
    `case "$*" in *"index versions"*) echo "Available versions: ${offered}";; *--no-deps*nvidia*) mkdir -p "$target/nvidia";; *--no-deps*) ${torch};; *--target*) ${torch} && ${rest};; esac`,
  );
}

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(copy, { recursive: true, force: true });
});

/** Returns shell lines that make a folder look like the package torch. */
function fakeTorch(folder: string, version: string, cuda = "13.0"): string {
  const libraries = ["libtorch_cpu.so", "libc10.so", ...(cuda ? ["libtorch_cuda.so"] : [])];
  return [
    `mkdir -p ${folder}/lib ${folder}/include/ATen/core`,
    `printf "__version__ = '${version}'\\ncuda: Optional[str] = ${cuda ? `'${cuda}'` : "None"}\\n" > ${folder}/version.py`,
    `touch ${libraries.map((name) => `${folder}/lib/${name}`).join(" ")} ${folder}/include/ATen/core/Tensor.h`,
  ].join(" && ");
}

/** Replaces a tool by a shell script. Each call is recorded, and $target is the value after --target. */
function tool(name: string, script: string): void {
  const head = `#!/bin/sh\necho "${name} $*" >> ${calls}\ntarget=$(echo "$*" | sed -n 's/.*--target \\([^ ]*\\).*/\\1/p')\n`;
  writeFileSync(join(tools, name), `${head}${script}\n`);
  chmodSync(join(tools, name), 0o755);
}

/** Returns the calls of a tool so far, except those that only check whether it exists. */
function called(name: string): string[] {
  const lines = existsSync(calls) ? readFileSync(calls, "utf8").split("\n") : [];
  return lines.filter(
    (line) =>
      line.startsWith(`${name} `) && !/--version|-dumpversion|find_spec|index versions|^make -n/.test(line),
  );
}

const load = async (): Promise<Setup & Find> => ({
  ...((await import(join(copy, "src/torch/install/buildEngine.ts"))) as Setup),
  ...((await import(join(copy, "src/torch/install/libtorch.ts"))) as Find),
});

/** Runs the setup and returns what it logged. */
async function setUp(cuda?: Parameters<Setup["setupEngine"]>[0]["cuda"]): Promise<string> {
  const lines: string[] = [];
  await (await load()).setupEngine({ cuda, log: (line) => lines.push(line) });
  return lines.join("\n");
}

test("nothing there: libtorch is installed, the addon built, and a second run does neither", async () => {
  const told = await setUp();
  expect(told).toContain(
    "installing libtorch 2.11.0 to compute on the CPU (about 0.6 GB to download, 1.2 GB of disk)",
  );
  expect(told).toContain(
    "libtorch 2.11.0+cu130, for the CPU (the build for CUDA 13.0, without NVIDIA's libraries), in ",
  );
  expect(called("python3")).toEqual([
    expect.stringMatching(/--no-deps torch==2\.11\.0$/),
    expect.stringMatching(/--no-deps nvidia-cuda-runtime==13\.0\.96 nvidia-cuda-cupti==13\.0\.85$/),
  ]);
  expect(called("make").at(-1)).toContain(`LIBTORCH=${libtorch}/torch`);
  const madeTimes = called("make").length;

  expect(await setUp()).toContain("up to date");
  expect(called("python3")).toHaveLength(2);
  expect(called("make")).toHaveLength(madeTimes);
});

test("a package index with the build for the CPU: it needs nothing of CUDA, and is told as what it is", async () => {
  pipGives({ version: "2.11.0+cpu", cuda: "" });
  expect(await setUp()).toContain("libtorch 2.11.0+cpu, for the CPU, in ");
  expect(called("python3")).toHaveLength(1);
});

test("another build's own needs are read from its package", async () => {
  pipGives({ version: "2.11.0+cu126", cuda: "12.6" });
  const script = readFileSync(join(tools, "python3"), "utf8");
  const needs = 'Requires-Dist: nvidia-cuda-runtime-cu12==12.6.77; platform_system == "Linux"';
  const facts = '"$target/torch-2.11.0+cu126.dist-info"';
  writeFileSync(
    join(tools, "python3"),
    script.replace(
      "*--no-deps*)",
      `*--no-deps*) mkdir -p ${facts} && echo '${needs}' > ${facts}/METADATA &&`,
    ),
  );
  await setUp();
  expect(called("python3")[1]).toMatch(/--no-deps nvidia-cuda-runtime-cu12==12\.6\.77$/);
});

test("CUDA installs the full wheel, over a set for the CPU alone, and that is enough from then on", async () => {
  await setUp();
  const told = await setUp("13.0");
  expect(told).toContain("installing libtorch 2.11.0 for CUDA 13.0 (about 3 GB to download, 5 GB of disk)");
  expect(told).toContain("libtorch 2.11.0+cu130, for CUDA 13.0 and the CPU, in ");
  expect(called("python3")).toHaveLength(3);
  expect(called("python3")[2]).toMatch(/torch==2\.11\.0$/);
  expect(called("python3")[2]).not.toMatch(/--no-deps|index/);
  await setUp("fitting");
  await setUp();
  expect(called("python3")).toHaveLength(3);
});

test("CUDA 12.6 comes from the index that pip is configured with, else from PyTorch's own, which is said", async () => {
  pipGives({ version: "2.11.0+cu126", cuda: "12.6" });
  const told = await setUp("12.6");
  expect(told).toContain("pip's package index has no torch 2.11.0+cu126: PyTorch's own has it, https://");
  expect(told).toContain("libtorch 2.11.0+cu126, for CUDA 12.6 and the CPU");
  expect(called("python3").at(-1)).toMatch(/--extra-index-url https:\S+\/whl\/cu126 torch==2\.11\.0\+cu126$/);

  rmSync(libtorch, { recursive: true });
  pipGives({ version: "2.11.0+cu126", cuda: "12.6", offered: "2.11.0+cu126, 2.10.0+cu126" });
  expect(await setUp("12.6")).not.toContain("PyTorch's own");
  expect(called("python3").at(-1)).toMatch(/root-user-action=ignore --target \S+ torch==2\.11\.0\+cu126$/);
});

test.each([
  { cards: "7.0", build: "12.6" },
  { cards: "8.6\\n8.9", build: "13.0" },
  { cards: "12.0", build: "13.0" },
])("a machine whose cards are of $cards gets CUDA $build", async ({ cards, build }) => {
  tool("nvidia-smi", `printf "${cards}\\n"`);
  pipGives({ version: `2.11.0+cu${build.replace(".", "")}`, cuda: build });
  expect(await setUp("fitting")).toContain(`installing libtorch 2.11.0 for CUDA ${build}`);
  const before = called("python3").length;
  await setUp("fitting");
  expect(called("python3")).toHaveLength(before);
});

test("an index that gives another build than was wanted leaves what was there, and the command that gets it is told", async () => {
  await setUp();
  pipGives({ version: "2.11.0+cpu", cuda: "" });
  await expect(setUp("13.0")).rejects.toMatchObject({
    message: "pip's package index gave torch 2.11.0+cpu, which is not for CUDA 13.0.",
    fix: expect.stringMatching(/PIP_EXTRA_INDEX_URL=https:\S+cu130 npx lorafit setup --cuda 13\.0$/),
  });
  expect(readFileSync(join(libtorch, "torch", "version.py"), "utf8")).toContain("2.11.0+cu130");
  expect(readdirSync(copy).filter((name) => name.startsWith(".libtorch"))).toEqual([".libtorch"]);
});

test("reports the share of the build that is done, by what the Makefile says of each file", async () => {
  const built = `mkdir -p ${copy}/native/build && touch ${copy}/native/build/lorafit.node`;
  tool(
    "make",
    `case "$*" in *clean*) ;; -n*) echo "echo compiled a.o 30"; echo "echo compiled b.o 10";; *) ${built}; echo compiled a.o 30; echo warning; echo compiled b.o 10;; esac`,
  );
  const seen: number[][] = [];
  const { setupEngine } = await load();
  await setupEngine({ log: () => {}, onCompiled: (done, total) => seen.push([done, total]) });
  expect(seen[0]).toEqual([0, 40]);
  expect(seen.at(-1)).toEqual([40, 40]);
});

test("an installation that was cut off is done again, and never taken for a whole one", async () => {
  mkdirSync(join(copy, ".libtorch.part", "torch"), { recursive: true });
  mkdirSync(join(libtorch, "torch"), { recursive: true });
  writeFileSync(join(libtorch, "torch", "version.py"), "__version__ = '2.11.0'");
  await setUp();
  expect(called("python3")).toHaveLength(2);
  rmSync(join(libtorch, "nvidia"), { recursive: true });
  await setUp();
  expect(called("python3")).toHaveLength(4);
  expect(readdirSync(copy).filter((name) => name.startsWith(".libtorch"))).toEqual([".libtorch"]);
});

test("pip that fails leaves nothing behind, and says what it needs", async () => {
  tool("python3", 'case "$*" in *--target*) mkdir -p "$target/torch" && exit 1;; esac');
  await expect(setUp()).rejects.toThrow("pip could not install torch 2.11.0");
  expect(readdirSync(copy).filter((name) => name.startsWith(".libtorch"))).toEqual([]);
});

test("a machine without pip or a compiler is told what to install", async () => {
  tool("python3", "exit 1");
  await expect(setUp()).rejects.toThrow("pip is needed");
  pipGives({});
  tool("g++", "exit 127");
  await expect(setUp()).rejects.toThrow("g++ is needed");
});

test("a build that fails shows the compiler's words, and the next run builds", async () => {
  tool(
    "make",
    'case "$*" in *clean*|--version) ;; *) echo "addon.cc:1: error: no such luck" >&2; exit 2;; esac',
  );
  await expect(setUp()).rejects.toThrow("no such luck");
  tool("make", `mkdir -p ${copy}/native/build && touch ${copy}/native/build/lorafit.node`);
  expect(await setUp()).toContain("the engine is built");
});

test("changed sources are built anew without a clean, another libtorch with one", async () => {
  await setUp();
  const cleans = () => called("make").filter((line) => line.endsWith("clean")).length;
  const before = cleans();
  writeFileSync(join(copy, "native", "addon.cc"), "// changed");
  expect(await setUp()).toContain("building the engine");
  expect(cleans()).toBe(before);

  cpSync(libtorch, join(copy, "elsewhere"), { recursive: true });
  vi.stubEnv("LORAFIT_LIBTORCH", join(copy, "elsewhere"));
  expect(await setUp()).toContain("building the engine");
  expect(cleans()).toBe(before + 1);
});

test("LORAFIT_LIBTORCH is the user's word: it is used or refused, and nothing is installed instead", async () => {
  mkdirSync(join(copy, "old"), { recursive: true });
  writeFileSync(join(copy, "old", "version.py"), "__version__ = '2.9.1+cpu'");
  vi.stubEnv("LORAFIT_LIBTORCH", join(copy, "old"));
  await expect(setUp()).rejects.toThrow(
    /LORAFIT_LIBTORCH: .*old: version 2\.9\.1\+cpu, and 2\.11\.0 is needed/,
  );
  expect(called("python3")).toEqual([]);
});

test("places are searched in order, each with what is wrong with it", async () => {
  const { searchLibtorch, findLibtorch } = await load();
  expect(searchLibtorch().map(({ from }) => from)).toEqual([".libtorch", "python3"]);
  expect(() => findLibtorch()).toThrow(/\.libtorch: .* not there\n {2}python3: it has no package torch/);

  tool("python3", `echo ${copy}/site/torch`);
  mkdirSync(join(copy, "site", "torch"), { recursive: true });
  writeFileSync(join(copy, "site", "torch", "version.py"), "__version__ = '2.11.0+cpu'");
  expect(() => findLibtorch()).toThrow("lib/libtorch_cpu.so is missing");
});

test("an addon that isn't built is a user's error with the command that builds it", async () => {
  const { loadAddon } = await load();
  expect(() => loadAddon()).toThrow("The engine is not built yet");
  mkdirSync(join(copy, "native", "build"));
  writeFileSync(join(copy, "native", "build", "lorafit.node"), "no library");
  expect(() => loadAddon()).toThrow("libtorch 2.11.0 was not found");
  await setUp();
  expect(() => loadAddon()).toThrow("The engine can't be loaded");
});

test("a bundle's addon is built anew where it does not load, for any libtorch again, and stays where there is no compiler", async () => {
  await setUp();
  const stampFile = join(copy, "native", "build", "stamp.json");
  const stamp = { ...JSON.parse(readFileSync(stampFile, "utf8")), libtorch: "any" };
  writeFileSync(stampFile, JSON.stringify(stamp));
  const { isBuilt, findLibtorch } = await load();
  expect(isBuilt(findLibtorch())).toBe(true);

  tool("g++", "exit 127");
  await expect(setUp()).rejects.toThrow("g++ is needed");
  expect(JSON.parse(readFileSync(stampFile, "utf8"))).toEqual(stamp);
  tool("g++", "true");
  expect(await setUp()).toContain("the engine is built (");
  expect(called("make").slice(-2)).toEqual([
    expect.stringMatching(/ clean$/),
    expect.stringContaining(`LIBTORCH=${libtorch}/torch`),
  ]);
  expect(JSON.parse(readFileSync(stampFile, "utf8"))).toEqual(stamp);
});
