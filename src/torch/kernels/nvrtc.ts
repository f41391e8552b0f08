/**
 * Runs lorafit's own kernels on a card. NVRTC, from libtorch's CUDA packages, compiles their source once for
 * the card's architecture. The machine code is kept on disk, and the driver launches it on the current
 * stream. Compiling needs no card.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { messageOf, UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { type Device, type DType, deviceCode } from "../dtypes.ts";
import { handleOf } from "../handle.ts";
import { findLibtorch } from "../install/libtorch.ts";
import { keepInCache, userCacheFolder } from "../install/userCache.ts";
import { type Handle, native } from "../native.ts";
import { Tensor } from "../tensor.ts";
import { ON_CARD, SOURCES, THREADS } from "./sources.ts";

/** A usable NVRTC. */
export interface Nvrtc {
  library: string;
  version: string;
  /** Compute capabilities that it compiles for, for example 75 or 120. */
  architectures: number[];
}

/** Identifies a kernel's code: a source of SOURCES, its entry, and the dtype of its scalars. */
export interface KernelCode {
  source: keyof typeof SOURCES;
  entry: string;
  dtype: DType;
}

export interface Launch extends KernelCode {
  /** Number of threads for the whole launch; the number of blocks follows from it. */
  threads: number;
  /** Arguments in the kernel's order. */
  inputs: readonly KernelInput[];
  /**
   * Number of elements or rows to process. It is the kernel's last argument, needed if the threads could
   * exceed this number.
   */
  count?: number | undefined;
}

/** The part of a launch that depends on its inputs. */
export type Work = Pick<Launch, "threads" | "inputs" | "count">;

/** Tensors are passed as pointers, numbers as 64-bit integers, and numbers in `float` as floats. */
export type KernelInput = Tensor | number | { float: number };

const SCALARS: Partial<Record<DType, string[]>> = {
  bfloat16: ["-DSCALAR_BF16"],
  float16: ["-DSCALAR_F16"],
  float32: [],
  uint8: [], // for kernels that move bytes
};

/** Bytes of the digest that is stored after the machine code. */
const DIGEST_BYTES = 32;

const loaded = new Map<string, Handle>();
let found: Nvrtc | undefined;

/** Whether the kernels support scalars of this dtype. For other dtypes, the twins run. */
export function hasScalar(dtype: DType): boolean {
  return SCALARS[dtype] !== undefined;
}

/** Queues a kernel on the device's current stream, and compiles it at its first use. */
export function launch(device: Device, { threads, inputs, count, ...code }: Launch): void {
  if (threads === 0) return;
  const blocks = [Math.ceil(threads / THREADS), 1, 1];
  const all = launchInputs({ inputs, count });
  native.launchKernel(kernelOn(device, code), blocks, THREADS, ...kernelArguments(all));
}

/** Returns all arguments of a kernel on a card. */
export function launchInputs({ inputs, count }: Omit<Work, "threads">): readonly KernelInput[] {
  return count === undefined ? inputs : [...inputs, count];
}

/** Returns a letter for the kind of each input, and the engine's value for it. */
export function kernelArguments(inputs: readonly KernelInput[]): [kinds: string, ...values: unknown[]] {
  const kinds = inputs.map((input) =>
    input instanceof Tensor ? "t" : typeof input === "number" ? "i" : "f",
  );
  const values = inputs.map((input) =>
    input instanceof Tensor ? handleOf(input) : typeof input === "number" ? input : input.float,
  );
  return [kinds.join(""), ...values];
}

/** Returns the NVRTC of libtorch's own packages, else the system's. Throws UserError if there is none. */
export function findNvrtc(): Nvrtc {
  if (found) return found;
  const problems: string[] = [];
  for (const library of placesOfNvrtc()) {
    try {
      const [major, minor, ...architectures] = native.nvrtcFacts(library);
      found = { library, version: `${major}.${minor}`, architectures };
      return found;
    } catch (error) {
      problems.push(messageOf(error));
    }
  }
  throw new UserError(`NVRTC, which compiles lorafit's kernels, was not found:\n  ${problems.join("\n  ")}`, {
    fix: `Install it: ${commandLine("setup --cuda")}\nOr install the package nvidia-cuda-nvrtc beside torch, or set LORAFIT_NVRTC to libnvrtc.so.`,
  });
}

/** Returns a kernel's machine code for an architecture, from the cache in `folder` if it is there. */
export function compileKernel(
  { source, dtype }: KernelCode,
  architecture: number,
  nvrtc: Nvrtc = findNvrtc(),
  folder = join(userCacheFolder(), "kernels"),
): Uint8Array {
  const scalar = SCALARS[dtype];
  if (!scalar) throw new Error(`no kernel has scalars of ${dtype}`);
  const options = [
    `--gpu-architecture=sm_${nearest(architecture, nvrtc)}`,
    "--std=c++17",
    "-default-device",
    ...scalar,
  ];
  const text = ON_CARD + SOURCES[source];
  const key = createHash("sha256")
    .update(JSON.stringify([text, options, nvrtc.version]))
    .digest("hex");
  const file = join(folder, `${key}.cubin`);
  const kept = keptCode(file);
  if (kept) return kept;
  const code = native.nvrtcCompile(nvrtc.library, text, options);
  keepInCache(file, Buffer.concat([code, digestOf(code)]));
  return code;
}

/**
 * Reads machine code from the cache, if it is complete. A power failure just after a rename can leave any
 * part of the file.
 */
function keptCode(file: string): Uint8Array | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch {
    return undefined;
  }
  const code = bytes.subarray(0, -DIGEST_BYTES);
  return digestOf(code).equals(bytes.subarray(-DIGEST_BYTES)) ? code : undefined;
}

function digestOf(code: Uint8Array): Buffer {
  return createHash("sha256").update(code).digest();
}

function kernelOn(device: Device, code: KernelCode): Handle {
  const key = `${device} ${code.entry} ${code.dtype}`;
  const known = loaded.get(key);
  if (known !== undefined) return known;
  const [, capability] = native.cardFacts(Number(device.split(":")[1]));
  const kernel = native.loadKernel(deviceCode(device), compileKernel(code, capability), code.entry);
  loaded.set(key, kernel);
  return kernel;
}

function placesOfNvrtc(): string[] {
  const own = process.env.LORAFIT_NVRTC;
  if (own) return [own];
  const torch = findLibtorch().folder;
  const folders = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"].map((folder) => join(dirname(torch), folder));
  const inside = [...folders, join(torch, "lib")].flatMap((folder) =>
    existsSync(folder)
      ? readdirSync(folder)
          .filter((name) => /^libnvrtc(-[0-9a-f]+)?\.so/.test(name))
          .map((name) => join(folder, name))
      : [],
  );
  return [...inside, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
}

/**
 * Returns the best architecture to compile for. Machine code also runs on later cards of the same major
 * version.
 */
function nearest(architecture: number, nvrtc: Nvrtc): number {
  const major = Math.floor(architecture / 10);
  const fit = nvrtc.architectures.filter(
    (known) => known <= architecture && Math.floor(known / 10) === major,
  );
  if (fit.length === 0) throw tooOld(architecture, nvrtc);
  return Math.max(...fit);
}

function tooOld(architecture: number, { version, architectures }: Nvrtc): UserError {
  const range = `${Math.min(...architectures)} to ${Math.max(...architectures)}`;
  return new UserError(
    `NVRTC ${version} compiles for compute capabilities ${range}, and this card has ${architecture}.`,
    {
      fix: "Install the nvidia-cuda-nvrtc that knows the card (Volta and older: version 12), or train on another card.",
    },
  );
}
