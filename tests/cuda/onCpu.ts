/**
 * Compiles the CUDA sources as C++ for the CPU, so that their results are tested on machines without a card.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KernelCode, launchInputs, type Work } from "../../src/torch/kernels/nvrtc.ts";
import { SOURCES, THREADS } from "../../src/torch/kernels/sources.ts";
import { Tensor } from "../../src/torch/tensor.ts";

/** An input that lies inside another input's memory. */
export interface Inside {
  of: number;
  offsetElements: number;
}

const SCALARS: Record<string, string> = {
  bfloat16: "-DSCALAR_BF16",
  float16: "-DSCALAR_F16",
  float32: "-DSCALAR_F32",
};
/**
 * Faults that end the program: undefined behaviour, or two threads that access the same memory without a
 * barrier between them.
 */
export type Checks = "undefined" | "thread";

export interface HowToRun {
  /** Inputs that lie inside other inputs, by index. */
  inside?: Record<number, Inside>;
  checks?: Checks;
  /** Changes a source, to test that a check finds the fault. */
  change?: (source: string) => string;
}
const FAILING: Record<Checks, string[]> = {
  undefined: ["-fno-sanitize-recover", "-DBY_TURNS"],
  thread: ["-g"],
};
const folder = mkdtempSync(join(tmpdir(), "lorafit-kernels-"));
const compiled = new Map<string, string>();

const here = (name: string): string => readFileSync(join(import.meta.dirname, name), "utf8");

/**
 * Runs a launch. Returns the bytes of every tensor input afterwards, by index, except inputs inside other
 * inputs.
 */
export function runOnCpu(
  code: KernelCode,
  work: Work,
  { inside = {}, checks = "undefined", change }: HowToRun = {},
) {
  const tensors: { index: number; bytes: number }[] = [];
  const inputs = launchInputs(work);
  const parts: Uint8Array[] = [whole(Math.ceil(work.threads / THREADS)), whole(inputs.length)];
  for (const [index, input] of inputs.entries()) {
    const place = inside[index];
    if (input instanceof Tensor && place) {
      parts.push(
        whole("a".charCodeAt(0)),
        whole(place.of),
        whole(place.offsetElements * (input.bytes / input.numel)),
      );
    } else if (input instanceof Tensor) {
      tensors.push({ index, bytes: input.bytes });
      parts.push(whole("t".charCodeAt(0)), whole(input.bytes), input.toBytes());
    } else if (typeof input === "number") {
      parts.push(whole("i".charCodeAt(0)), whole(input));
    } else {
      parts.push(whole("f".charCodeAt(0)), new Uint8Array(Float64Array.of(input.float).buffer));
    }
  }
  const { status, stdout, stderr } = spawnSync(program(code, checks, change), [code.entry], {
    input: Buffer.concat(parts),
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) throw new Error(`${code.entry} ended with ${status}: ${stderr}`);
  const results = new Map<number, Uint8Array<ArrayBuffer>>();
  let at = 0;
  for (const { index, bytes } of tensors) {
    results.set(index, new Uint8Array(stdout.subarray(at, at + bytes)));
    at += bytes;
  }
  return results;
}

/** Tells whether this machine's compiler has the thread sanitizer, and its Linux kernel lets it run. */
export function canWatchThreads(): boolean {
  const file = join(folder, "watch");
  writeFileSync(`${file}.cc`, "int main() { return 0; }\n");
  const { status } = spawnSync("g++", ["-fsanitize=thread", "-o", file, `${file}.cc`]);
  return status === 0 && spawnSync(file).status === 0;
}

/** Removes the compiled programs. */
export function removePrograms(): void {
  rmSync(folder, { recursive: true });
}

/**
 * Compiles a program when it is first needed. A program has every kernel for one dtype; with `change`, only
 * the kernels of one source.
 */
function program({ dtype, source }: KernelCode, checks: Checks, change: HowToRun["change"]): string {
  const name = [dtype, checks, ...(change ? [source, "changed"] : [])].join("-");
  const known = compiled.get(name);
  if (known) return known;
  const file = join(folder, name);
  const sources = change ? { [source]: change(SOURCES[source]) } : SOURCES;
  const spaces = Object.entries(sources).map(([name, text]) => `namespace ${name} {${text}}\n`);
  const calls = Object.entries(sources).flatMap(([name, text]) =>
    entriesOf(text).map(
      (entry) => `  if (std::strcmp(name, "${entry}") == 0) return run(${name}::${entry});\n`,
    ),
  );
  const main = `int main(int, char** arguments) {\n  const char* name = arguments[1];\n${calls.join("")}  return 4;\n}\n`;
  writeFileSync(`${file}.cc`, [here("onCpu.h"), ...spaces, here("run.h"), main].join(""));
  const options = ["-std=c++20", "-O0", "-pthread", `-fsanitize=${checks}`, ...FAILING[checks]];
  const all = [...options, SCALARS[dtype] ?? "", "-o", file, `${file}.cc`];
  const { status, stderr } = spawnSync("g++", all, { encoding: "utf8" });
  if (status !== 0) throw new Error(stderr.slice(0, 4000));
  compiled.set(name, file);
  return file;
}

function entriesOf(source: string): string[] {
  return [...source.matchAll(/__global__ void (\w+)/g)].map(([, entry]) => entry!);
}

function whole(value: number): Uint8Array {
  return new Uint8Array(BigInt64Array.of(BigInt(value)).buffer);
}
