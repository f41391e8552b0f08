/**
 * Watches every operator call and own loop. Load it first: other modules take the calling functions when they
 * load.
 */
import type { OpCall, TracedTensor } from "../src/plan/time/opCost.ts";
import { dtypeOfCode } from "../src/torch/dtypes.ts";
import { native } from "../src/torch/native.ts";

/** Cost of a call. */
export interface CallTimes {
  wallMs: number;
  /** Processor milliseconds by thread: this thread first, then those that compute with it. */
  threadsMs: number[];
}

/** loop: a loop of our own, whose tensors are all among the inputs. */
export type WatchedCall = OpCall & { loop: boolean };

type Observer = (call: WatchedCall, times: CallTimes) => void;

let observe: Observer | undefined;
const names = new Map<number, string>();
const { call, runLoop, startCopy, waitCopy } = native;
/** Milliseconds of this thread for reading the clocks. */
let [idleMs, idleOwnMs] = [0, 0];
const looks = Array.from({ length: 1000 }, () => timed(() => undefined).times);
[idleMs, idleOwnMs] = [
  Math.min(...looks.map(({ wallMs }) => wallMs)),
  Math.min(...looks.map(({ threadsMs }) => threadsMs[0]!)),
];

native.call = (op, ...inputs) => {
  if (!observe) return call(op, ...inputs);
  const taken = inputs.filter(isTensor).map(describe);
  const { result, times } = timed(() => call(op, ...inputs));
  const results = [result ?? inputs[0]].flat() as unknown[];
  const outputs = results.filter(isTensor).map(describe);
  if (isView(nameOf(op), taken[0], outputs[0])) {
    for (const tensor of [taken[0]!, outputs[0]!]) tensor.storage = 0;
  }
  observe({ op: nameOf(op), inputs: taken, outputs, causal: inputs.includes(true), loop: false }, times);
  return result;
};

native.runLoop = (entry, dtype, kinds, ...inputs) => {
  if (!observe) return runLoop(entry, dtype, kinds, ...inputs);
  const tensors = (inputs as number[]).filter((_, at) => kinds[at] === "t").map(describe);
  const { times } = timed(() => runLoop(entry, dtype, kinds, ...inputs));
  observe({ op: entry, inputs: tensors, outputs: [], loop: true }, times);
};

native.startCopy = (to, from) => {
  if (!observe) return startCopy(to, from);
  const [into, source] = [describe(to as number), describe(from as number)];
  const { result, times } = timed(() => startCopy(to, from));
  observe({ op: "start of a copy", inputs: [into, source], outputs: [], loop: false }, times);
  return result;
};

native.waitCopy = (copy, onHost) => {
  if (!observe) return waitCopy(copy, onHost);
  const { times } = timed(() => waitCopy(copy, onHost));
  observe({ op: "wait for a copy", inputs: [], outputs: [], loop: false }, times);
};

/** Has the time that each call takes told; undefined: no longer. */
export function observeCalls(observer: Observer | undefined): void {
  observe = observer;
}

function timed<T>(body: () => T): { result: T; times: CallTimes } {
  const [startMs, before] = [performance.now(), native.processorTimes()];
  const result = body();
  const after = native.processorTimes();
  const wallMs = performance.now() - startMs - idleMs;
  const threadsMs = after.map((ms, thread) => ms - before[thread]! - (thread === 0 ? idleOwnMs : 0));
  return { result, times: { wallMs, threadsMs } };
}

function nameOf(op: number): string {
  const name =
    names.get(op) ??
    native
      .schema(op)
      .replace(/^aten::/, "")
      .split("(")[0]!;
  names.set(op, name);
  return name;
}

function describe(handle: number): TracedTensor {
  return {
    shape: native.shape(handle),
    dtype: dtypeOfCode(native.dtype(handle)),
    strided: !native.isContiguous(handle),
  };
}

/** Whether an op that may copy did not, by what it was given. */
function isView(name: string, input: TracedTensor | undefined, output: TracedTensor | undefined): boolean {
  return /^(to|reshape|contiguous|flatten)/.test(name) && !input?.strided && input?.dtype === output?.dtype;
}

/** Handles and plain numbers look alike: a number is a tensor where it names one. */
function isTensor(input: unknown): input is number {
  try {
    return (
      typeof input === "number" && Number.isInteger(input) && input > 0 && native.shape(input).length > 0
    );
  } catch {
    return false;
  }
}
