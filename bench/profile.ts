/**
 * Prints where a step's time goes: every operator call of bench/ours.ts, by operator and shapes. `profile.js
 * TASK [ROWS]`, with the task that bench/cpu.ts wrote. Times are processor time of all threads, so other
 * processes do not count.
 */
import { readFileSync } from "node:fs";
import { native } from "../src/torch/native.ts";
import type { CpuTask } from "./cpuTask.ts";

interface Cost {
  ms: number;
  calls: number;
  /** FLOPs of matrix products. */
  flops: number;
}

/** Counts an operator's FLOPs from the shapes of its tensors. */
const PRODUCTS: Record<string, (shapes: number[][]) => number> = {
  "aten::mm": ([a, b]) => 2 * a![0]! * a![1]! * b![1]!,
  "aten::addmm_": ([, a, b]) => 2 * a![0]! * a![1]! * b![1]!,
};

const [taskFile, rows = "25"] = process.argv.slice(2);
let costs: Map<string, Cost> | undefined;
timeCalls();
await profile(JSON.parse(readFileSync(taskFile!, "utf8")) as CpuTask);

/** Loads the modules that call operators only now, because they take the calling function when they load. */
async function profile(task: CpuTask): Promise<void> {
  const { openBench } = await import("./openBench.ts");
  const { step } = openBench(task);
  step();
  const startMs = processorMs();
  costs = new Map();
  step();
  print(costs, processorMs() - startMs, Number(rows));
}

/** Has every operator and every kernel of our own timed from now on. */
function timeCalls(): void {
  const { call, runLoop } = native;
  const names = new Map<number, string>();
  native.call = (op, ...inputs) => {
    if (!costs) return call(op, ...inputs);
    const name = names.get(op) ?? native.schema(op).split("(")[0]!.split(".")[0]!;
    names.set(op, name);
    const tensors = inputs.filter((input) => typeof input === "number" && isTensor(input)) as number[];
    return timed(costs, name, tensors.slice(0, 3), () => call(op, ...inputs));
  };
  native.runLoop = (entry, dtype, kinds, ...inputs) => {
    if (!costs) return runLoop(entry, dtype, kinds, ...inputs);
    const tensors = inputs.filter((_, at) => kinds[at] === "t") as number[];
    return timed(costs, `lorafit::${entry}`, tensors.slice(0, 2), () =>
      runLoop(entry, dtype, kinds, ...inputs),
    );
  };
}

function timed<T>(costs: Map<string, Cost>, name: string, tensors: readonly number[], call: () => T): T {
  const shapes = tensors.map((tensor) => native.shape(tensor));
  const strided = tensors.map((tensor) => (native.isContiguous(tensor) ? "" : "'"));
  const before = processorMs();
  const result = call();
  const ms = processorMs() - before;
  const key = `${name} ${shapes.map((shape, at) => `[${shape}]${strided[at]}`).join(" ")}`;
  const cost = costs.get(key) ?? { ms: 0, calls: 0, flops: 0 };
  cost.ms += ms;
  cost.calls += 1;
  cost.flops += PRODUCTS[name]?.(shapes) ?? 0;
  costs.set(key, cost);
  return result;
}

/** Handles and plain numbers look alike: a number is a tensor where it names one. */
function isTensor(input: number): boolean {
  try {
    return Number.isInteger(input) && input > 0 && native.shape(input).length > 0;
  } catch {
    return false;
  }
}

function print(costs: Map<string, Cost>, totalMs: number, rows: number): void {
  const byOperator = new Map<string, Cost>();
  for (const [key, cost] of costs) {
    const name = key.split(" ")[0]!;
    const sum = byOperator.get(name) ?? { ms: 0, calls: 0, flops: 0 };
    byOperator.set(name, {
      ms: sum.ms + cost.ms,
      calls: sum.calls + cost.calls,
      flops: sum.flops + cost.flops,
    });
  }
  const inside = [...costs.values()].reduce((sum, { ms }) => sum + ms, 0);
  const flops = [...costs.values()].reduce((sum, cost) => sum + cost.flops, 0);
  console.log(`processor time ${totalMs.toFixed(0)} ms, ${inside.toFixed(0)} ms of it inside operators`);
  console.log(`products of matrices: ${(flops / 1e12).toFixed(2)} TFLOP`);
  for (const [title, table] of [
    ["by operator", byOperator],
    ["by operator and shapes (' is not contiguous)", costs],
  ] as const) {
    console.log(`\n${title}\n      ms   share   calls  GFLOP/s a thread`);
    for (const [key, { ms, calls, flops }] of [...table].sort((a, b) => b[1].ms - a[1].ms).slice(0, rows)) {
      const rate = flops > 0 ? (flops / ms / 1e6).toFixed(0) : "";
      const columns = [ms.toFixed(0).padStart(8), `${((100 * ms) / totalMs).toFixed(1)} %`.padStart(7)];
      console.log(...columns, `${calls}`.padStart(7), rate.padStart(8), ` ${key}`);
    }
  }
}

function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
