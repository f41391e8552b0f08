/** Where predicted and measured time part: a step's calls, each timed, by class of op. */

import type { CountedOp } from "../src/plan/dryRun/dryRun.ts";
import { pathOf } from "../src/plan/time/busyMachine.ts";
import type { Clocks } from "../src/plan/time/calibration.ts";
import type { CpuSpeed } from "../src/plan/time/cpuSpeed.ts";
import { type OpCall, type OpTrace, traceOp } from "../src/plan/time/opCost.ts";
import { opTimeMs } from "../src/plan/time/stepTime.ts";
import { attentionLoops } from "../src/torch/kernels/attentionLoops.ts";
import { attentionTiles } from "../src/torch/kernels/attentionTiles.ts";
import { fused } from "../src/torch/kernels/kernels.ts";
import { observeCalls, type WatchedCall } from "./watchCalls.ts";

interface Sum {
  calls: number;
  ms: number;
}

/** A class of ops. */
interface Row {
  measured: Sum;
  /** Predicted milliseconds of the calls that were made. */
  predicted: Sum;
  /** Predicted milliseconds of the plan's calls; equal if the plan has the step's calls. */
  planned: Sum;
}

interface Comparison {
  speed: CpuSpeed;
  clock: keyof Clocks;
  /** Milliseconds of the body without watching its calls. */
  wholeMs: number;
  /** Rows of the table. */
  rows: number;
  /** Splits products by size, other operators by the nearest power of two of their elements. */
  bySize: boolean;
}

/**
 * Prints how far predictions of a body's calls miss, class by class, the largest misses first. `before` runs
 * before each repetition, unwatched. Time between operators is divided among all calls, because a call's
 * prediction includes making and freeing its tensors.
 */
export function printClasses(
  watchedCalls: { before: () => unknown; body: () => unknown },
  planned: readonly CountedOp[],
  comparison: Comparison,
): void {
  const { speed, wholeMs, rows, bySize } = comparison;
  const passes = Array.from({ length: PASSES }, () => {
    watchedCalls.before();
    return watched(watchedCalls.body, comparison);
  });
  const classes = passes[0]!;
  for (const [name, { measured }] of classes) {
    const all = passes.map((pass) => pass.get(name)?.measured.ms ?? 0);
    measured.ms = all.sort((one, other) => one - other)[PASSES >> 1]!;
  }
  for (const op of planned) {
    add(rowOf(classes, classOf(op, bySize)).planned, op.count, op.count * opTimeMs(op, speed));
  }
  const measured = [...classes.values()].map((row) => row.measured);
  const betweenMs = wholeMs - measured.reduce((sum, { ms }) => sum + ms, 0);
  const calls = measured.reduce((sum, { calls }) => sum + calls, 0);
  for (const sum of measured) sum.ms += (sum.calls * betweenMs) / calls;
  console.log(`      between ${calls} calls ${betweenMs.toFixed(0)} ms, shared out among them:`);
  printRows(classes, rows);
}

/** The middle of so many counts, class by class. */
const PASSES = 3;

function watched(body: () => unknown, { speed, clock, bySize }: Comparison): Map<string, Row> {
  const classes = new Map<string, Row>();
  const threads = new Map<string, number[]>();
  observeCalls((call, times) => {
    const op = tracedCall(call);
    const name = classOf(op, bySize);
    const { measured, predicted } = rowOf(classes, name);
    add(measured, 1, times.wallMs);
    threads.set(name, plus(threads.get(name), times.threadsMs));
    add(predicted, 1, opTimeMs(op, speed));
  });
  body();
  observeCalls(undefined);
  if (clock === "wallMs") return classes;
  for (const [name, { measured }] of classes) measured.ms = pathOf(threads.get(name)!);
  return classes;
}

function plus(sums: readonly number[] | undefined, times: readonly number[]): number[] {
  return times.map((ms, thread) => ms + (sums?.[thread] ?? 0));
}

function rowOf(classes: Map<string, Row>, name: string): Row {
  const row = classes.get(name) ?? { measured: none(), predicted: none(), planned: none() };
  classes.set(name, row);
  return row;
}

function printRows(classes: Map<string, Row>, rows: number): void {
  console.log(`      ${"".padEnd(44)} measured predicted ratio  planned  missing   calls planned`);
  const sorted = [...classes].sort(([, one], [, other]) => miss(other) - miss(one));
  for (const [name, { measured, predicted, planned }] of sorted.slice(0, rows)) {
    const ratio = measured.ms > 0 ? (predicted.ms / measured.ms).toFixed(2) : "";
    const numbers = [
      ...[measured.ms.toFixed(1).padStart(8), predicted.ms.toFixed(1).padStart(9), ratio.padStart(5)],
      ...[planned.ms.toFixed(1).padStart(8), (measured.ms - planned.ms).toFixed(1).padStart(8)],
      ...[`${measured.calls}`.padStart(7), `${planned.calls}`.padStart(7)],
    ];
    console.log(`      ${name.padEnd(44)} ${numbers.join(" ")}`);
  }
}

function miss({ measured, planned }: Row): number {
  return Math.abs(measured.ms - planned.ms);
}

function none(): Sum {
  return { calls: 0, ms: 0 };
}

function add(sum: Sum, calls: number, ms: number): void {
  sum.calls += calls;
  sum.ms += ms;
}

const kernels = new Map(
  [fused, attentionLoops, attentionTiles]
    .flatMap((table) => Object.values(table))
    .map((kernel) => [kernel.entry, kernel] as const),
);

/** Lists a loop's tensors as plans do: inputs, then outputs; panels stand for what is packed in them. */
function tracedCall({ loop, ...call }: WatchedCall): OpTrace {
  if (!loop) return traceOp(call);
  const { reads, writes } = kernels.get(call.op)!;
  const at = (indexes: readonly number[]): OpCall["inputs"] => indexes.map((index) => call.inputs[index]!);
  return traceOp({ op: call.op, inputs: at(reads), outputs: at(writes) });
}

function classOf({ name, kind, stream, form }: OpTrace, bySize: boolean): string {
  if (kind === "none") return "view";
  if (stream !== "compute") return `${name}, ${stream} stream`;
  const size = bySize && form ? `, ${2 ** Math.round(Math.log2(form.elements))}` : "";
  if (!form?.product)
    return `${name} ${form?.dtypes}${form?.strided && !kernels.has(name) ? " strided" : ""}${size}`;
  const { m, n, k, layout } = form.product;
  if (bySize) return `product ${layout.padEnd(4)} m ${m} k ${k} n ${n}`;
  const least = Math.min(m, n, k);
  return `product ${layout.padEnd(4)} ${least < 48 ? "thin" : least < 320 ? "medium" : "thick"}`;
}
