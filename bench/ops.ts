/**
 * Times small operators through the typed API, dispose included, beside the same calls of Python's torch if
 * it can be imported. The goal is at most 3 µs.
 */
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { cat, ones } from "../src/torch/create.ts";
import { setThreads } from "../src/torch/device.ts";
import { findLibtorch, packageRoot } from "../src/torch/install/libtorch.ts";
import { scope, type Tensor } from "../src/torch/tensor.ts";

const ROUNDS = 100_000;
const REPEATS = 7;

type Cost = Record<string, number>;

function main(): void {
  setThreads(1);
  const ours = scope(measure);
  const python = pythonCosts();
  console.log("2x2 float32 on cpu, one thread, ns a call".padEnd(44), "lorafit", "  torch", "  ratio");
  for (const [name, ns] of Object.entries(ours)) {
    const theirs = python?.[name];
    const beside = theirs
      ? [theirs.toFixed(0).padStart(7), (ns / theirs).toFixed(2).padStart(7)]
      : ["      -"];
    console.log(name.padEnd(44), ns.toFixed(0).padStart(7), ...beside);
  }
  if (!python)
    console.log("Python's torch can't be imported here (a CPU set of libtorch is not enough): no peer.");
}

/** The least mean of a few repeats, in ns: what the rest of the machine does is no part of it. */
function nanoseconds(call: () => void): number {
  let best = Number.POSITIVE_INFINITY;
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    const start = process.hrtime.bigint();
    for (let round = 0; round < ROUNDS; round++) call();
    best = Math.min(best, Number(process.hrtime.bigint() - start) / ROUNDS);
  }
  return best;
}

function measure(): Cost {
  const [x, y, weight] = [ones([2, 2]), ones([2, 2]), ones([2, 2])];
  const free = (tensor: Tensor) => tensor.dispose();
  return {
    "x.add(y)": nanoseconds(() => free(x.add(y))),
    "x.mul(2)": nanoseconds(() => free(x.mul(2))),
    "x.add_(y)": nanoseconds(() => void x.add_(y)),
    "x.narrow(0, 0, 1)": nanoseconds(() => free(x.narrow(0, 0, 1))),
    "x.view([4])": nanoseconds(() => free(x.view([4]))),
    "x.mm(y)": nanoseconds(() => free(x.mm(y))),
    "x.linear(w)": nanoseconds(() => free(x.linear(weight))),
    "cat([x, y])": nanoseconds(() => free(cat([x, y]))),
    "x.sum().item()": nanoseconds(() => {
      const sum = x.sum();
      sum.item();
      free(sum);
    }),
    "a scope around x.add(y)": nanoseconds(() => scope(() => void x.add(y))),
    "x.add(y).shape": nanoseconds(() => {
      const sum = x.add(y);
      if (sum.shape.length !== 2) throw new Error("the shape of a sum");
      free(sum);
    }),
  };
}

/** The peer's costs, or undefined where Python's torch can't be imported. */
function pythonCosts(): Cost | undefined {
  const path = [dirname(findLibtorch().folder), process.env.PYTHONPATH].filter(Boolean).join(":");
  const script = join(packageRoot, "bench", "ops.py");
  const { status, stdout } = spawnSync("python3", [script, `${ROUNDS}`], {
    env: { ...process.env, PYTHONPATH: path },
    encoding: "utf8",
  });
  return status === 0 ? (JSON.parse(stdout) as Cost) : undefined;
}

main();
