/**
 * Compares a step's rate with that of libtorch's products: `products.js TASK [ROUNDS]`, with the task that
 * bench/cpu.ts wrote. All products of matrices of a step, by shape, are computed in turns by libtorch
 * (oneDNN) and by lorafit, on one thread. Then steps run at both levels in turns. Times are processor time,
 * the least of some rounds.
 */
import { readFileSync } from "node:fs";
import { type LoopLevel, native } from "../src/torch/native.ts";
import type { Tensor } from "../src/torch/tensor.ts";
import type { CpuTask } from "./cpuTask.ts";

interface Matrix {
  shape: number[];
  strides: number[];
}

interface Product {
  matrices: Matrix[];
  calls: number;
  flops: number;
}

/** The best level at which libtorch multiplies. */
const LIBRARY: LoopLevel = "avx512";
const best = native.loopLevel();

const [taskFile, rounds = "5"] = process.argv.slice(2);
const task = { ...(JSON.parse(readFileSync(taskFile!, "utf8")) as CpuTask), threads: 1 };
const products = new Map<string, Product>();
let attentionFlops = 0;
let recording = false;
recordCalls();
// These take the calling functions when they load.
const { openBench } = await import("./openBench.ts");
const { empty } = await import("../src/torch/create.ts");
const { setThreads } = await import("../src/torch/device.ts");
const { scope } = await import("../src/torch/tensor.ts");
const { step } = openBench(task);
step();
recording = true;
step();
recording = false;
compareProducts();

/** Notes the products and attention of a step from now on. */
function recordCalls(): void {
  const { call, runLoop } = native;
  native.call = (op, ...inputs) => {
    if (recording) noteProduct(native.schema(op).split("(")[0]!, inputs);
    return call(op, ...inputs);
  };
  native.runLoop = (entry, dtype, kinds, ...inputs) => {
    if (recording && entry.startsWith("causal_tile")) {
      const [keys, , , width] = inputs.slice(kinds.indexOf("i")) as number[];
      const rows = native.shape(inputs[0] as number)[0]!;
      attentionFlops += (entry === "causal_tile" ? 4 : 6) * rows * keys! * width!;
    }
    return runLoop(entry, dtype, kinds, ...inputs);
  };
}

function noteProduct(name: string, inputs: readonly unknown[]): void {
  const count = name.startsWith("aten::addmm_") ? 3 : name.startsWith("aten::mm") ? 2 : 0;
  if (count === 0) return;
  const matrices = (inputs.slice(0, count) as number[]).map((tensor) => ({
    shape: native.shape(tensor),
    strides: native.strides(tensor),
  }));
  const [left, right] = matrices.slice(-2).map(({ shape }) => shape) as [number[], number[]];
  const key = JSON.stringify(matrices);
  const known = products.get(key) ?? { matrices, calls: 0, flops: 2 * left[0]! * left[1]! * right[1]! };
  products.set(key, { ...known, calls: known.calls + 1 });
}

function compareProducts(): void {
  setThreads(1);
  const sums = { library: 0, own: 0, flops: 0 };
  console.log("GFLOP/s of one thread\n libtorch  lorafit   calls  left x right");
  const all = [...products.values()].sort((a, b) => b.flops * b.calls - a.flops * a.calls);
  for (const { matrices, calls, flops } of all) {
    const [library, own] = scope(() => {
      const [into, ...factors] = matrices.map(filled) as [Tensor, ...Tensor[]];
      return inTurns(() =>
        scope(() => void (factors[1] ? into.addmm_(factors[0]!, factors[1]) : into.mm(factors[0]!))),
      );
    });
    sums.library += library * calls;
    sums.own += own * calls;
    sums.flops += flops * calls;
    const rates = [library, own].map((ms) => (flops / ms / 1e6).toFixed(0).padStart(9));
    console.log(...rates, `${calls}`.padStart(7), ` ${matrices.map(nameOf).join(" ")}`);
  }
  const [libraryStep, ownStep] = inTurns(step);
  const rate = (flops: number, ms: number): string => `${(flops / ms / 1e6).toFixed(0)} GFLOP/s`;
  const stepFlops = sums.flops + attentionFlops;
  const tera = (flops: number): string => (flops / 1e12).toFixed(2);
  console.log(`a step: ${tera(sums.flops)} TFLOP of products, ${tera(attentionFlops)} of attention`);
  console.log(
    `products alone: libtorch ${rate(sums.flops, sums.library)}, lorafit ${rate(sums.flops, sums.own)}`,
  );
  console.log(
    `step with libtorch's products ${(libraryStep / 1000).toFixed(2)} s, ${rate(stepFlops, libraryStep)}`,
  );
  console.log(`step with lorafit's products  ${(ownStep / 1000).toFixed(2)} s, ${rate(stepFlops, ownStep)}`);
  const ratio = stepFlops / ownStep / (sums.flops / sums.library);
  console.log(`step to libtorch's products: ${ratio.toFixed(2)}`);
}

/** Returns the least processor milliseconds of a call at the library's level and at the best. */
function inTurns(call: () => void): [library: number, own: number] {
  const least = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  for (let round = 0; round < Number(rounds); round++)
    for (const [index, level] of [LIBRARY, best].entries()) {
      native.loopLevel(level);
      const before = process.cpuUsage();
      call();
      const { user, system } = process.cpuUsage(before);
      least[index] = Math.min(least[index]!, (user + system) / 1000);
    }
  native.loopLevel(best);
  return least as [number, number];
}

/** Makes a tensor with these strides. */
function filled({ shape, strides }: Matrix): Tensor {
  const numel = 1 + shape.reduce((sum, size, dim) => sum + (size - 1) * strides[dim]!, 0);
  return empty([numel], { dtype: "bfloat16" }).fill_(0.5).asStrided(shape, strides);
}

function nameOf({ shape, strides }: Matrix): string {
  return `[${shape}]${strides.at(-1) === 1 ? "" : "'"}`;
}
