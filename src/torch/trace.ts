/**
 * Records what a body does on meta, for plans: allocations in order, and operator calls counted by shapes.
 */
import { type AllocationLog, readAllocations, type TrackedDevice } from "./device.ts";
import { type DType, deviceCode, dtypeOfCode } from "./dtypes.ts";
import { handlesOf } from "./handle.ts";
import { native } from "./native.ts";
import { refuseDeferred, type Tensor } from "./tensor.ts";

export interface CalledTensor {
  shape: number[];
  dtype: DType;
  /** The pool that its memory is booked to; recorded for meta tensors only. */
  place: "device" | "host";
  /** Whether its rows or columns are apart in memory: a transposed matrix, a slice of columns. */
  strided?: boolean;
  /** Tensors with the same number share memory. */
  storage?: number;
}

/** Calls of one operator on tensors of the same shapes. */
export interface CountedCall {
  /** Name with its overload: "sum.dim_IntList". */
  op: string;
  inputs: CalledTensor[];
  outputs: CalledTensor[];
  causal: boolean;
  count: number;
}

export interface Trace {
  /** Decodes the counted calls. Nothing is cached, because the calls of most traces are never needed. */
  calls(): CountedCall[];
  log: AllocationLog;
}

/** Whether loops over equal parts run one part of each kind and count it for all of them. */
let abridging = false;

/**
 * Runs the body, counts its calls and logs its allocations. The body calls `take` for the trace since the
 * last `take`.
 */
export function traced<T>(
  device: TrackedDevice,
  body: (take: () => Trace) => T extends PromiseLike<unknown> ? never : T,
): T {
  native.traceCalls(true);
  native.recordAllocations(deviceCode(device), true);
  try {
    const result: T = body(() => ({ calls: takeCalls(), log: readAllocations(device) }));
    refuseDeferred(result, "traced");
    return result;
  } finally {
    native.traceCalls(false);
    native.recordAllocations(deviceCode(device), false);
  }
}

/**
 * Runs the body with loops over equal parts abridged. Exact for the memory peak and the number of calls; the
 * tensors must have no data.
 */
export function abridged<T>(body: () => T extends PromiseLike<unknown> ? never : T): T {
  const before = abridging;
  abridging = true;
  try {
    const result: T = body();
    refuseDeferred(result, "abridged");
    return result;
  } finally {
    abridging = before;
  }
}

/** Whether equal parts run once and count for all. */
export function isAbridging(): boolean {
  return abridging;
}

/** Number of repetitions that the innermost `repeated` counts for. */
let innermostTimes = 1;

/** Runs the body once and counts its calls `times` times. */
export function repeated<T>(times: number, body: () => T): T {
  const outer = innermostTimes;
  innermostTimes = times;
  const before = times === 1 ? undefined : native.setRepeats(1);
  if (before !== undefined) native.setRepeats(before * times);
  try {
    return body();
  } finally {
    innermostTimes = outer;
    if (before !== undefined) native.setRepeats(before);
  }
}

/**
 * Runs the body and counts its calls once for a whole loop. For use in a part of the loop that stands for
 * several.
 */
export function countedOnce<T>(body: () => T): T {
  return repeated(1 / innermostTimes, body);
}

/** Yields the steps of a generator and counts their calls `times` times; yields none if times is 0. */
export function* repeatedSteps<Step>(
  times: number,
  begin: () => Generator<Step, void>,
): Generator<Step, void> {
  if (times === 1) return yield* begin();
  const steps = times === 0 ? undefined : begin();
  for (let next = step(); next && !next.done; next = step()) yield next.value;

  function step(): IteratorResult<Step, void> | undefined {
    return steps && repeated(times, () => steps.next());
  }
}

const CAUSAL = 1;
const SHARED = 2;
/** Flag added to the number of the pool. */
const STRIDED = 2;

function takeCalls(): () => CountedCall[] {
  const values = new Float64Array(native.takeCalls().buffer);
  return () => callsOf(values);
}

function callsOf(values: Float64Array): CountedCall[] {
  const calls: CountedCall[] = [];
  for (let at = 0; at < values.length; ) {
    const length = values[at]!;
    calls.push(callOf(values.subarray(at + 1, at + 1 + length)));
    at += 1 + length;
  }
  return calls;
}

function callOf([count = 0, op = 0, flags = 0, ...rest]: Float64Array): CountedCall {
  const inputs: CalledTensor[] = [];
  const outputs: CalledTensor[] = [];
  for (let at = 0; at < rest.length; ) {
    const [isResult, dtype = 0, pool = 0, dims = 0] = rest.slice(at, at + 4);
    const shape = rest.slice(at + 4, at + 4 + dims);
    const place = (pool & 1) === 0 ? "device" : "host";
    const strided = (pool & STRIDED) !== 0;
    (isResult ? outputs : inputs).push({
      shape,
      dtype: dtypeOfCode(dtype),
      place,
      ...(strided && { strided }),
    });
    at += 4 + dims;
  }
  if (flags & SHARED) for (const tensor of [inputs[0]!, outputs[0]!]) tensor.storage = 0;
  return { op: nameOf(op), inputs, outputs, causal: (flags & CAUSAL) !== 0, count };
}

/** Name of a second count for a copy that the computation waits for. */
export const EXPOSED_COPY = "exposed copy";

/**
 * Names by number. Negative numbers: copies beside the computation, then lorafit's own kernels in the order
 * of first use.
 */
const names = new Map<number, string>([
  [-1, "copy_"],
  [-2, EXPOSED_COPY],
]);
const kernels = new Map<string, number>();

/** The kinds of collectives among ranks. */
export type Collective = "sum" | "gather" | "exchange" | "broadcast";

/** Whether collectives are counted as going on beside the computation. */
let isBeside = false;

/** Runs the body, and counts its collectives as going on beside the computation. */
export function countedBeside<T>(body: () => T extends PromiseLike<unknown> ? never : T): T {
  const before = isBeside;
  isBeside = true;
  try {
    const result: T = body();
    refuseDeferred(result, "countedBeside");
    return result;
  } finally {
    isBeside = before;
  }
}

/**
 * Counts a collective in a plan. Its result has the bytes by which its time is known. exposed: a second count
 * of one that nothing computes beside.
 */
export function countCollective(
  kind: Collective,
  ranks: number,
  reads: readonly Tensor[],
  result: Tensor,
  { exposed = false } = {},
): void {
  const how = exposed ? "exposed " : isBeside ? "overlapped " : "";
  countKernel(`${how}${kind} among ${ranks} ranks`, reads, [result]);
}

/** A counted collective. */
export interface CollectiveCall {
  kind: Collective;
  ranks: number;
  /** Whether this is the second count of one that nothing computes beside. */
  isExposed?: boolean;
  /** Whether it goes on beside the computation. */
  isOverlapped?: boolean;
}

/** Returns a counted collective; undefined for any other call. */
export function collectiveOf(op: string): CollectiveCall | undefined {
  const [, how, kind, ranks] = /^(exposed |overlapped )?(\w+) among (\d+) ranks$/.exec(op) ?? [];
  if (kind === undefined) return undefined;
  return {
    ...{ kind: kind as Collective, ranks: Number(ranks) },
    ...(how === "exposed " && { isExposed: true }),
    ...(how === "overlapped " && { isOverlapped: true }),
  };
}

/** Counts, in a plan, that the next work waits for the copies to the device started since the last launch. */
export function countExposed(): void {
  native.countExposed();
}

/** Counts a launch of one of lorafit's own kernels in a plan, with the tensors that it reads and writes. */
export function countKernel(entry: string, reads: readonly Tensor[], writes: readonly Tensor[]): void {
  const id = kernels.get(entry) ?? -3 - kernels.size;
  kernels.set(entry, id);
  names.set(id, entry);
  native.countKernel(id, handlesOf(reads), handlesOf(writes));
}

/** Returns an operator's name: "sum.dim_IntList" for "aten::sum.dim_IntList(Tensor self, ...". */
function nameOf(op: number): string {
  const known = names.get(op);
  if (known) return known;
  const name = native
    .schema(op)
    .replace(/^aten::/, "")
    .replace(/\(.*$/s, "");
  names.set(op, name);
  return name;
}
