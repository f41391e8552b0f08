/**
 * Runs commands on a phantom card: libtorch's own CUDA half, over a runtime that keeps books and computes
 * nothing. See README.md.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { searchLibtorch } from "../../../src/torch/install/libtorch.ts";
import { lorafit, PROGRAM, type Run } from "../../e2e/lorafit.ts";

/** The card's description, and what happens to it. Amounts are in bytes. */
export interface PhantomCard {
  name?: string;
  capability?: number;
  memoryBytes?: number;
  multiprocessors?: number;
  contextBytes?: number;
  /**
   * Operations that a stream leaves undone until somebody waits for it. Default: 0, nothing is left undone.
   */
  lag?: number;
  /** Number of such cards. Default: 1. */
  cards?: number;
  /** Number of the allocation of pinned memory that fails, once. */
  pinRefused?: number;
  /**
   * Number of the wait for an event that lasts until the file exists. FILE.reached appears when this wait
   * begins.
   */
  gate?: { wait: number; file: string };
  /** From this launch on, other processes hold this many bytes of the card's memory. */
  filled?: { launch: number; bytes: number };
  /** From this launch on, every call fails with this CUDA error. */
  lost?: { launch: number; error: number };
}

/** Everything that the process asked of the card, from its first tensor to its end. */
export interface PhantomReport {
  peakBytes: number;
  pinnedPeakBytes: number;
  /** Devices on which CUDA has created a context. */
  contexts: number[];
  launches: number;
  products: number;
  productFlops: number;
  /** Number of times that the host waited, by what it waited for. */
  waits: Record<string, number>;
  traffic: Record<string, { count: number; bytes: number }>;
  /** Number of launches, by the compiler's name of the kernel. */
  kernels: Record<string, number>;
  /** Calls that a real card would refuse, or compute wrong results from. */
  violations: string[];
}

export type PhantomRun = Run & { report: PhantomReport | undefined };

/** Returns why no phantom card can be built here; undefined if it can. */
export function phantomProblem(): string | undefined {
  const libtorch = searchLibtorch().at(-1);
  if (!libtorch?.usable || !libtorch.cuda) return "libtorch is one for the CPU";
  const packages = join(libtorch.folder, "../nvidia");
  const headers = existsSync(packages) ? readdirSync(packages) : [];
  if (!headers.some((name) => existsSync(join(packages, name, "include/cuda_runtime_api.h"))))
    return "libtorch came without the CUDA runtime's headers";
  return spawnSync("g++", ["--version"]).status === 0 ? undefined : "there is no g++";
}

export class Phantom {
  readonly #folder = mkdtempSync(join(tmpdir(), "lorafit-phantom-"));

  /** Compiles the libraries, in a few seconds. */
  constructor() {
    const libtorch = searchLibtorch().at(-1);
    if (!libtorch?.usable) throw new Error("there is no libtorch");
    const script = join(import.meta.dirname, "build.sh");
    const { status, stderr } = spawnSync("bash", [script, libtorch.folder, this.#folder], {
      encoding: "utf8",
    });
    if (status !== 0) throw new Error(`the phantom card can't be built:\n${stderr}`);
  }

  /** Returns the environment variables with which a program finds the card. */
  environment(card: PhantomCard = {}): Record<string, string> {
    const libraries = readdirSync(this.#folder).filter((name) => /\.so\.\d+$/.test(name));
    const { name, capability, memoryBytes, multiprocessors, contextBytes, lag, filled, lost } = card;
    const { cards, pinRefused, gate } = card;
    const settings = {
      PHANTOM_NAME: name,
      PHANTOM_CAPABILITY: capability,
      PHANTOM_MEMORY_BYTES: memoryBytes,
      PHANTOM_MULTIPROCESSORS: multiprocessors,
      PHANTOM_CONTEXT_BYTES: contextBytes,
      PHANTOM_LAG: lag,
      PHANTOM_CARDS: cards,
      PHANTOM_PIN_REFUSED: pinRefused,
      PHANTOM_GATE: gate && `${gate.wait}:${gate.file}`,
      PHANTOM_FILL: filled && `${filled.launch}:${filled.bytes}`,
      PHANTOM_LOST: lost && `${lost.launch}:${lost.error}`,
    };
    const said = Object.entries(settings).filter(([, value]) => value !== undefined);
    return {
      LD_PRELOAD: libraries.map((library) => join(this.#folder, library)).join(" "),
      ...Object.fromEntries(said.map(([key, value]) => [key, String(value)])),
    };
  }

  /** Runs a lorafit command, and reads the card's report. */
  lorafit(args: string[], card: PhantomCard = {}): PhantomRun {
    return this.#reported(card, (env) => lorafit(args, { env }));
  }

  /** Runs the text of a module, which may import built files as "lorafit/...". */
  script(text: string, card: PhantomCard = {}): PhantomRun {
    const built = pathToFileURL(join(dirname(PROGRAM), ".."));
    const module = text.replaceAll('from "lorafit/', `from "${built}/`);
    return this.#reported(card, (own) => {
      const env = { ...process.env, ...own };
      const args = ["--input-type=module", "-e", module];
      const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8", env });
      return { code: status, stdout, stderr };
    });
  }

  #reported(card: PhantomCard, run: (env: Record<string, string>) => Run): PhantomRun {
    const path = join(this.#folder, "report.json");
    rmSync(path, { force: true });
    const ended = run({ ...this.environment(card), PHANTOM_REPORT: path });
    return { ...ended, report: existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : undefined };
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true });
  }
}
